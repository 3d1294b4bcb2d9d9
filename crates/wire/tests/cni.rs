//! The container network interface against golden files: what runtimes and other plugins write, and what we answer.

use std::path::Path;

use wire::cni::{Call, CniError, CniResult, Command, Env, Received, STDIN_LIMIT, SpecVersion, code, version_reply};

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cni").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn env(command: &str) -> Env {
    Env::from_lookup(|key| {
        let value = match key {
            "CNI_COMMAND" => command,
            "CNI_CONTAINERID" => "0123456789abcdef",
            "CNI_NETNS" => "/run/netns/pod",
            "CNI_IFNAME" => "eth0",
            _ => return None,
        };
        Some(value.to_owned())
    })
    .expect("the environment is complete")
}

fn call(command: &str, stdin: &str) -> Result<Call, CniError> {
    Call::new(env(command), stdin.as_bytes().to_vec())
}

#[test]
fn one_result_is_printed_in_the_shape_of_every_version() {
    let result = CniResult::parse(golden("result-1.1.0.json").as_bytes()).unwrap();
    for version in SpecVersion::ALL {
        let expected: serde_json::Value = serde_json::from_str(&golden(&format!("result-{version}.json"))).unwrap();
        assert_eq!(result.to_value(version), expected, "{version}");
    }
}

#[test]
fn a_result_of_every_version_is_read() {
    for version in SpecVersion::ALL {
        let text = golden(&format!("result-{version}.json"));
        let result = CniResult::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{version}: {error}"));
        let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(result.to_value(version), expected, "{version}: read and printed again");
    }
}

#[test]
fn a_chained_configuration_keeps_the_previous_result_and_the_plugins_own_keys() {
    #[derive(serde::Deserialize)]
    struct Own {
        mode: String,
        #[serde(rename = "vethMTU")]
        veth_mtu: u32,
    }
    let call = call("ADD", &golden("conf-chained.json")).unwrap();
    assert_eq!(
        (call.version, call.conf.name.as_str(), call.conf.kind.as_str()),
        (SpecVersion::V0_3_1, "net", "coordinator")
    );
    let own: Own = call.plugin_conf().unwrap();
    assert_eq!((own.mode.as_str(), own.veth_mtu), ("auto", 1400));
    let previous = call.conf.required_prev_result().unwrap();
    assert_eq!(previous.ips[0].address.to_string(), "10.6.2.1/16");
    assert_eq!(previous.ips[0].interface, Some(0));
    assert!(previous.routes.is_empty(), "null is an empty list");
}

#[test]
fn a_plugin_at_the_head_of_the_chain_has_no_previous_result() {
    let call = call("ADD", r#"{"cniVersion":"1.0.0","name":"n","type":"coordinator"}"#).unwrap();
    assert!(call.conf.prev_result().unwrap().is_none());
    let error = call.conf.required_prev_result().unwrap_err();
    assert_eq!(error.code, code::INVALID_CONFIG);
    assert!(error.msg.contains("coordinator must stand after another plugin"), "{error}");
}

#[test]
fn gc_reads_the_attachments_to_keep() {
    let call = call("GC", &golden("conf-gc.json")).unwrap();
    let kept = call.conf.valid_attachments().unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].container_id.as_str(), kept[0].ifname.as_str()), ("0123", "eth0"));
}

#[test]
fn bad_input_is_refused_with_its_reason() {
    let rows = [
        ("ADD", "", code::DECODE_FAILURE, "stdin is empty"),
        ("ADD", " \n", code::DECODE_FAILURE, "stdin is empty"),
        ("ADD", r#"{"cniVersion":"1.0.0","na"#, code::DECODE_FAILURE, "is cut short after 25 bytes"),
        ("ADD", "hello", code::DECODE_FAILURE, "is not JSON"),
        ("ADD", " []", code::DECODE_FAILURE, "is an array, a JSON object is expected"),
        ("ADD", r#"["1.0.0","n","x",null,null,null]"#, code::DECODE_FAILURE, "is an array, a JSON object is expected"),
        ("ADD", r#""n""#, code::DECODE_FAILURE, "is no object, a JSON object is expected"),
        ("ADD", "null", code::DECODE_FAILURE, "is no object, a JSON object is expected"),
        ("ADD", r#"{"cniVersion":"1.0.0","name":"n"} {}"#, code::DECODE_FAILURE, "more text behind"),
        ("ADD", r#"{"cniVersion":7,"name":"n"}"#, code::INVALID_CONFIG, "at cniVersion: invalid type: integer `7`"),
        ("ADD", r#"{"name":"n"}"#, code::INCOMPATIBLE_VERSION, "cniVersion is missing"),
        (
            "ADD",
            r#"{"cniVersion":"0.2.0","name":"n"}"#,
            code::INCOMPATIBLE_VERSION,
            "cniVersion \"0.2.0\" is not supported",
        ),
        (
            "ADD",
            r#"{"cniVersion":"9.0.0","name":"n"}"#,
            code::INCOMPATIBLE_VERSION,
            "cniVersion \"9.0.0\" is not supported",
        ),
        ("CHECK", r#"{"cniVersion":"0.3.1","name":"n"}"#, code::INCOMPATIBLE_VERSION, "CHECK needs cniVersion 0.4.0"),
        ("GC", r#"{"cniVersion":"1.0.0","name":"n"}"#, code::INCOMPATIBLE_VERSION, "GC needs cniVersion 1.1.0"),
        ("ADD", r#"{"cniVersion":"1.0.0"}"#, code::INVALID_CONFIG, "name is missing"),
        ("ADD", r#"{"cniVersion":"1.0.0","name":"a b"}"#, code::INVALID_CONFIG, "name \"a b\""),
    ];
    for (command, stdin, expected, text) in rows {
        let error = call(command, stdin).unwrap_err();
        assert!(error.msg.contains(text), "{command} {stdin}: {error}");
        assert_eq!(error.code, expected, "{command} {stdin}: {error}");
    }
}

#[test]
fn a_bad_field_of_the_previous_result_is_named() {
    let stdin = r#"{"cniVersion":"1.0.0","name":"n","prevResult":{"ips":[{"address":"10.0.0.300/24"}]}}"#;
    let error = call("ADD", stdin).unwrap().conf.prev_result().unwrap_err();
    assert!(error.msg.contains("prevResult is invalid at ips[0].address"), "{error}");
}

#[test]
fn ten_megabytes_are_refused_without_being_read() {
    struct Endless(usize);
    impl std::io::Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            buffer.fill(b' ');
            self.0 += buffer.len();
            Ok(buffer.len())
        }
    }
    let mut stdin = Endless(0);
    let error = Received::read(env("ADD"), &mut stdin).unwrap_err();
    assert!(error.msg.contains("is longer than 1048576 bytes"), "{error}");
    assert!(stdin.0 <= 2 * STDIN_LIMIT, "read {} bytes", stdin.0);
}

#[test]
fn version_names_all_versions_and_repeats_the_requested_one() {
    let mut request: &[u8] = br#"{"cniVersion":"1.0.0"}"#;
    let Received::Version(requested) = Received::read(env("VERSION"), &mut request).unwrap() else {
        panic!("no VERSION")
    };
    assert_eq!(
        version_reply(requested.as_deref()),
        r#"{"cniVersion":"1.0.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#
    );
    let Received::Version(requested) = Received::read(env("VERSION"), &mut std::io::empty()).unwrap() else { panic!() };
    assert_eq!(requested, None);
    assert_eq!(env("VERSION").command, Command::Version);
}

#[test]
fn an_error_is_printed_as_the_specification_says() {
    let error = CniError::new(code::TRY_AGAIN_LATER, "agent does not answer")
        .with_details("socket x")
        .for_version(Some("1.0.0"));
    let text = error.to_json();
    assert_eq!(text, r#"{"cniVersion":"1.0.0","code":11,"msg":"agent does not answer","details":"socket x"}"#);
    assert_eq!(CniError::parse(text.as_bytes()), Some(error));
    assert_eq!(CniError::parse(br#"{"cniVersion":"1.0.0","ips":[]}"#), None);
}
