//! The image by itself: what it says when it is wrongly used, and what it is allowed.

use crate::common::process::Folder;
use crate::engine::{self, Edition, IMAGE, all_of, compose, docker, ended, is_left_out, told};
use std::fs;
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

/// A second `build:` of one tag would be a second image, or an error; none at all would be looked for in a registry.
#[test]
fn compose_builds_one_image_for_both_kinds_of_processes() {
    if is_left_out("compose.yaml: its build of the image") {
        return;
    }
    engine::images();
    for edition in [Edition::Second, Edition::First] {
        let folder = Folder::new("compose-build");
        // With what is compiled already, in a context of its own: else it is the file that people have.
        let file = fs::read_to_string(engine::root().join("compose.yaml")).expect("compose.yaml");
        let context = format!("context: {}", folder.path().display());
        let file = file.replace("context: .", &context);
        let ready = "args:\n        BINARY: holdfast\n        BUILD_BASE";
        let file = file.replace("args:\n        BUILD_BASE", ready);
        fs::write(folder.file("compose.yaml"), file).expect("written");
        fs::create_dir(folder.file("docker")).expect("made");
        let dockerfile = engine::root().join("docker/Dockerfile");
        fs::copy(dockerfile, folder.file("docker/Dockerfile")).expect("copied");
        fs::copy(env!("CARGO_BIN_EXE_holdfast"), folder.file("holdfast")).expect("copied");
        let name = format!("holdfast-test-build-{}", std::process::id());
        let run = |arguments: &[&str]| {
            let base = engine::run_base();
            let mut command = compose(edition);
            command.arg("-f").arg(folder.file("compose.yaml")).args(["-p", &name]).args(arguments);
            command.envs([("HOLDFAST_IMAGE", name.as_str()), ("BUILD_BASE", &base)]);
            told(command.env("RUN_BASE", &base))
        };
        assert_eq!(run(&["config"]).matches("dockerfile: docker/Dockerfile").count(), 1);
        run(&["up", "--no-start", "--build", "signaling", "media"]);
        let image_of = |service: &str| {
            let containers = run(&["ps", "--all", "-q", service]);
            let ids: Vec<&str> = containers.lines().collect();
            assert!(!ids.is_empty(), "{edition:?}: {service}");
            docker(&[&["inspect", "-f", "{{.Image}}"][..], &ids].concat())
        };
        let images = [image_of("signaling"), image_of("media")];
        run(&["down", "--volumes"]);
        let built = docker(&["image", "inspect", "-f", "{{.Id}}", &name]);
        docker(&["rmi", "--no-prune", &name]);
        for images in images {
            assert!(images.lines().all(|image| image == built.trim()), "{edition:?}: {images}");
        }
    }
}
