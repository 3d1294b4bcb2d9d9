//! `spiderpool-controller health`, the program, beside a controller.

use std::process::Output;

use tokio::process::Command;

use crate::world::{BOTH, Replica, api_server, eventually};

async fn health(port: u16, more: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_spiderpool-controller"));
    program.arg("health").args(more).env_clear().env("SPIDERPOOL_HEALTH_PORT", port.to_string());
    program.output().await.unwrap()
}

/// The exit code, and what is told.
fn told(output: &Output, port: u16) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr).replace(&port.to_string(), "PORT");
    (output.status.code(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_tells_whether_the_controller_is_well_and_the_text_why_not() {
    let (client, _server) = api_server().await;
    let dir = tempfile::tempdir().unwrap();
    // Without a certificate it lives, and is not ready.
    let replica = Replica::start(&client, "a", None, BOTH, &[], |settings| {
        settings.flags.tls_server_cert = Some(dir.path().join("tls.crt"));
        settings.flags.tls_server_key = Some(dir.path().join("tls.key"));
    })
    .await;
    let port = replica.health.port();
    let well = eventually("it answers", || async {
        let output = health(port, &["--probe", "liveness", "--timeout", "10"]).await;
        output.status.success().then_some(output)
    })
    .await;
    assert_eq!(told(&well, port), (Some(0), String::new()));
    let started = health(port, &["--probe", "startup", "--timeout", "10"]).await;
    assert_eq!(told(&started, port), (Some(0), String::new()), "a new process would have no certificate either");
    let (code, text) = told(&health(port, &["--timeout", "10"]).await, port);
    assert_eq!(code, Some(1), "readiness is what is asked unless told otherwise");
    assert!(text.contains("port PORT: readiness probe: waiting for"), "{text}");
    replica.end().await;
    let (code, text) = told(&health(port, &[]).await, port);
    assert_eq!(code, Some(1));
    assert!(text.contains("port PORT: no answer to the readiness probe"), "{text}");
    let (code, text) = told(&health(port, &["--probe", "wellness"]).await, port);
    assert_eq!(code, Some(2), "{text}");

    let replica = Replica::start(&client, "b", None, BOTH, &[], |_| {}).await;
    replica.ready().await;
    let port = replica.health.port();
    for probe in ["startup", "readiness", "liveness"] {
        let output = health(port, &["--probe", probe, "--timeout", "10"]).await;
        assert_eq!(told(&output, port), (Some(0), String::new()), "{probe}");
    }
    replica.end().await;
}
