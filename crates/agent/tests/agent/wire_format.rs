//! The socket byte by byte: statuses and bodies that upstream's plugins rely on.

use crate::world::{Target, World, call, http_over, raw, v4, v6};
use serde_json::{Value, json};

#[tokio::test]
async fn errors_of_the_framework_look_like_upstreams() {
    let world = World::new().await;
    let agent = world.agent("node-a").await;
    let good =
        r#"{"containerID":"c","ifName":"eth0","netNamespace":"n","podName":"p","podNamespace":"ns1","podUID":""}"#;
    let rows = [
        ("GET", "/v1/ipam/healthy", "", 200, ""),
        ("POST", "/v1/ipam/ips", "{}", 200, ""),
        ("GET", "/v1/nothing", "", 404, r#"{"code":404,"message":"path /v1/nothing was not found"}"#),
        (
            "PUT",
            "/v1/ipam/ip",
            good,
            405,
            r#"{"code":405,"message":"method PUT is not allowed, but [POST,DELETE] are"}"#,
        ),
        ("POST", "/v1/ipam/ip", "", 422, r#"{"code":602,"message":"ipam-add-args in body is required"}"#),
        ("POST", "/v1/ipam/ip", "{}", 422, r#"{"code":602,"message":"containerID in body is required"}"#),
        (
            "DELETE",
            "/v1/ipam/ip",
            r#"{"containerID":"c"}"#,
            422,
            r#"{"code":602,"message":"ifName in body is required"}"#,
        ),
        ("GET", "/v1/coordinator/config", "{}", 422, r#"{"code":602,"message":"podName in body is required"}"#),
        (
            "GET",
            "/v1/workloadendpoint?podName=a",
            "",
            422,
            r#"{"code":602,"message":"podNamespace in query is required"}"#,
        ),
        ("GET", "/v1/workloadendpoint?podName=a&podNamespace=ns1", "", 404, r#""SpiderEndpoint ns1/a not found""#),
        ("POST", "/v1/ipam/ip", good, 500, r#""Pod ns1/p does not exist""#),
    ];
    for (method, path, body, status, expected) in rows {
        let (found, head, text) = raw(&agent.socket, method, path, body).await;
        assert_eq!((found, text.as_str()), (status, expected), "{method} {path} {body}");
        let is_json = head.contains("content-type: application/json");
        assert_eq!(is_json, !expected.is_empty(), "{method} {path}: {head}");
    }
    let (status, _, text) = raw(&agent.socket, "POST", "/v1/ipam/ip", "{\"podName\":").await;
    assert_eq!(status, 400);
    assert!(
        text.starts_with(r#"{"code":400,"message":"parsing ipam-add-args body from \"\" failed, because "#),
        "{text}"
    );
    let (status, _, text) = raw(&agent.socket, "GET", "/v1/runtime/startup", "").await;
    assert_eq!((status, text.starts_with('"')), (501, true), "{text}");
    let (status, _, _) = raw(&agent.socket, "POST", "/v1/ipam/ip", &"x".repeat(2 << 20)).await;
    assert_eq!(status, 413);
}

#[tokio::test]
async fn an_answer_is_upstreams_member_by_member() {
    let world = World::new().await;
    let routes = json!([{"dst": "10.9.0.0/16", "gw": "10.1.0.2"}]);
    let mut spec = v4("10.1.0.10");
    spec["routes"] = routes;
    world.pool("p4", spec).await;
    world.pool("p6", v6("fd00:1::10")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({"ipam.spidernet.io/routes": r#"[{"dst":"10.8.0.0/16","gw":"10.1.0.3"}]"#})).await;
    let (status, answer) = agent.add(&pod).await;
    let expected = json!({
        "ips": [
            {"address": "10.1.0.10/16", "gateway": "10.1.0.1", "ipPool": "p4", "nic": "eth0", "version": 4},
            {"address": "fd00:1::10/64", "gateway": "fd00:1::1", "ipPool": "p6", "nic": "eth0", "version": 6},
        ],
        "routes": [
            {"ifName": "eth0", "dst": "10.9.0.0/16", "gw": "10.1.0.2"},
            {"ifName": "eth0", "dst": "10.8.0.0/16", "gw": "10.1.0.3"},
            {"ifName": "eth0", "dst": "0.0.0.0/0", "gw": "10.1.0.1"},
            {"ifName": "eth0", "dst": "::/0", "gw": "fd00:1::1"},
        ],
    });
    assert_eq!((status, answer), (200, expected));
}

#[tokio::test]
async fn a_body_of_upstreams_plugin_is_served_and_clean_gateway_counts() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    let more = json!({"defaultIPv4IPPool": null, "defaultIPv6IPPool": null, "cleanGateway": true});
    let (status, answer) = agent.add_with(&pod, more).await;
    assert_eq!((status, &answer["routes"]), (200, &json!([])));
    assert_eq!(answer["ips"][0]["gateway"], "10.1.0.1", "only the default route is left out");
    // The second ADD does not say so, and the answer stays the same.
    assert_eq!(agent.add(&pod).await, (200, answer));
}

#[tokio::test]
async fn the_health_port_answers_probes_and_knows_the_other_paths() {
    let world = World::new().await;
    let agent = world.agent("node-a").await;
    let get = async |method: &str, path: &str| {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", agent.health.port())).await.unwrap();
        http_over(stream, method, path).await
    };
    for path in ["/v1/runtime/startup", "/v1/runtime/readiness", "/v1/runtime/liveness"] {
        assert_eq!(get("GET", path).await, (200, String::new()), "{path}");
    }
    assert_eq!(get("POST", "/v1/ipam/ip").await.0, 501);
    assert_eq!(get("POST", "/v1/runtime/startup").await.0, 405);
    assert_eq!(get("GET", "/x").await, (404, r#"{"code":404,"message":"path /x was not found"}"#.to_owned()));
}

#[tokio::test]
async fn any_path_of_the_metrics_port_tells_the_series() {
    let world = World::new().await;
    let agent = world.agent("node-a").await;
    let nobody = Target { name: "x".into(), uid: "u".into(), container: "c".into(), nic: "eth0".into() };
    assert_eq!(agent.add(&nobody).await.0, 500);
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", agent.metrics.port())).await.unwrap();
    let (status, text) = http_over(stream, "GET", "/anything").await;
    assert_eq!(status, 200);
    let value = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{")))
            .unwrap_or_else(|| panic!("{name} in {text}"));
        line.rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(value("spiderpool_ipam_allocation_counts_total"), "1");
    assert_eq!(value("spiderpool_ipam_allocation_failure_counts_total"), "1");
    assert_eq!(value("spiderpool_ipam_release_counts_total"), "0");
    let labels = |name: &str| text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).collect::<Vec<_>>();
    let failed = labels("spiderpool_cni_duration_seconds_count");
    assert!(failed.len() == 1 && failed[0].contains("command=\"ADD\",result=\"failure\""), "{failed:?}");
    let errors = labels("spiderpool_api_error_counts_total");
    assert!(errors.iter().any(|line| line.contains("code=\"404\"")), "the pod was not found: {errors:?}");
}

#[tokio::test]
async fn our_own_client_speaks_with_the_agent() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10")).await;
    let agent = world.agent("node-a").await;
    let pod = world.pod("web", json!({})).await;
    let client = wire::agent::Client::new(agent.socket.clone());
    let args: wire::agent::AddArgs = serde_json::from_value(pod.args(json!({}))).unwrap();
    let release = pod.release();
    let (answer, absent) = tokio::task::spawn_blocking(move || {
        client.healthy().unwrap();
        let answer = client.add(&args).unwrap();
        client.release(&release).unwrap();
        let nobody = wire::agent::AddArgs { pod_name: "x".into(), ..args };
        (answer, client.add(&nobody).unwrap_err())
    })
    .await
    .unwrap();
    assert_eq!(answer.ips[0].address, "10.1.0.10/16");
    assert_eq!(absent.to_string(), "[POST /ipam/ip][500] Pod ns1/x does not exist");
}

#[tokio::test]
async fn conflict_release_is_refused_with_its_own_statuses() {
    let world = World::new().await;
    world.pool("p4", v4("10.1.0.10-10.1.0.19")).await;
    let agent = world.agent_with("node-a", "", &[("SPIDERPOOL_ENABLED_RELEASE_CONFLICT_IPS", "false")]).await;
    let pod = world.pod("web", json!({})).await;
    agent.addresses(&pod).await;
    let conflict = pod.args(json!({"isReleaseConflictIPs": true}));
    assert_eq!(call(&agent.socket, "DELETE", "/v1/ipam/ips", &conflict).await.0, 521);
    assert_eq!(world.claims().await.len(), 1);
    assert_eq!(
        call(&agent.socket, "DELETE", "/v1/ipam/ips", &pod.args(json!({}))).await,
        (200, Value::String(String::new()))
    );
    assert!(world.claims().await.is_empty(), "the pod lives, but its addresses proved unusable");
}
