//! The image by itself: what it says when it is wrongly used, and what it is allowed.

use crate::engine::{self, IMAGE, all_of, docker, ended, is_left_out};
use std::process::Command;

/// `docker run` without network, with these options, `serve`.
fn serve(options: &[&str]) -> (Option<i32>, String) {
    engine::images();
    let mut command = Command::new("docker");
    command.args(["run", "--rm", "--read-only", "--network", "none"]).args(options);
    let output = ended(command.args([IMAGE, "serve"]));
    (output.status.code(), all_of(&output))
}

#[test]
fn a_volume_that_cannot_be_written_is_told_with_the_remedy() {
    if is_left_out("the image: a volume that cannot be written") {
        return;
    }
    let (code, text) = serve(&["--tmpfs", "/var/lib/holdfast:uid=0,mode=755"]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("chown -R 10001:10001"), "{text}");
    let (code, text) = serve(&["-e", "HOLDFAST_DATA_DIR=/elsewhere"]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("read-only file system: mount a volume there"), "{text}");
}

#[test]
fn all_mistakes_of_the_environment_are_told_at_once() {
    if is_left_out("the image: wrong settings") {
        return;
    }
    let (code, text) = serve(&["-e", "HOLDFAST_SIP_PORT=1", "-e", "HOLDFAST_SIP_BIND=203.0.113.9"]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("HOLDFAST_SIP_PORT: no such setting"), "{text}");
    assert!(text.contains("203.0.113.9 is not on this host"), "{text}");
}

#[test]
fn the_image_is_small_and_belongs_to_nobody_of_weight() {
    if is_left_out("the image: user, health check, size") {
        return;
    }
    engine::images();
    let told = |what: &str| docker(&["image", "inspect", "-f", what, IMAGE]).trim().to_owned();
    assert_eq!(told("{{.Config.User}}"), "10001:10001");
    assert_eq!(told("{{json .Config.Healthcheck.Test}}"), r#"["CMD","holdfast","health"]"#);
    assert_eq!(told("{{json .Config.Entrypoint}}"), r#"["holdfast"]"#);
    let bytes: u64 = told("{{.Size}}").parse().expect("a size");
    assert!(bytes < 250_000_000, "{bytes} bytes");
}
