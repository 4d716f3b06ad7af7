//! Docker and Compose as programs, and the images under test.
//!
//! Invariant: images have names of their own, so that nobody's `holdfast` is replaced by the one under test.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Once, OnceLock};

pub(crate) const IMAGE: &str = "holdfast-test";
/// The same by another name, as a later release would be.
pub(crate) const NEXT_IMAGE: &str = "holdfast-test:next";
pub(crate) const POSTGRES_IMAGE: &str = "holdfast-postgres-test";

/// Docker was left out on purpose.
pub(crate) fn is_left_out(test: &str) -> bool {
    crate::common::is_left_out(test, "WITHOUT_DOCKER")
}

/// Builds the images once a run.
pub(crate) fn images() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let answer = Command::new("docker").arg("info").output();
        assert!(
            answer.is_ok_and(|output| output.status.success()),
            "Docker does not answer: apt-get install -y docker.io docker-compose debootstrap, and start \
             the daemon; or set WITHOUT_DOCKER=1 to leave these tests out"
        );
        let mut build = Command::new(root().join("docker/build-images.sh"));
        build
            .env("HOLDFAST_BINARY", env!("CARGO_BIN_EXE_holdfast"))
            .env("HOLDFAST_IMAGE", IMAGE)
            .env("HOLDFAST_POSTGRES_IMAGE", POSTGRES_IMAGE);
        told(&mut build);
    });
}

/// What the images stand on: the public base, or its stand-in where that cannot be had.
pub(crate) fn run_base() -> String {
    const PUBLIC: &str = "debian:bookworm-slim";
    let is_there =
        ended(Command::new("docker").args(["image", "inspect", PUBLIC])).status.success();
    if is_there {
        return PUBLIC.to_owned();
    }
    let stand_ins =
        docker(&["images", "--format", "{{.Repository}}:{{.Tag}}", "holdfast-stand-in"]);
    stand_ins.lines().next().expect("a base: docker/build-images.sh makes it").to_owned()
}

/// The folder of the compose files.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs `docker` to a good end; what it says.
pub(crate) fn docker(arguments: &[&str]) -> String {
    told(Command::new("docker").args(arguments))
}

/// Of Compose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edition {
    /// `docker compose`: Docker's own, or what `docker/compose-v2.sh` put beside our build.
    Second,
    /// `docker-compose` 1.29, as older distributions have it.
    First,
}

pub(crate) fn compose(edition: Edition) -> Command {
    if edition == Edition::First {
        return Command::new("docker-compose");
    }
    static OWN: OnceLock<bool> = OnceLock::new();
    let is_own = *OWN.get_or_init(|| {
        let answer = Command::new("docker").args(["compose", "version"]).output();
        !answer.is_ok_and(|output| output.status.success())
    });
    let mut command = Command::new("docker");
    if is_own {
        let folder = root().join("target/compose-v2");
        if !folder.join("cli-plugins/docker-compose").exists() {
            let line = "\nNOT TESTED with Compose v2, but with docker-compose: run docker/compose-v2.sh \
                        target/compose-v2\n";
            static TOLD: Once = Once::new();
            TOLD.call_once(|| _ = std::io::stderr().write_all(line.as_bytes()));
            return compose(Edition::First);
        }
        command.env("DOCKER_CONFIG", folder);
    }
    command.arg("compose");
    command
}

/// Runs it to a good end; what it says.
pub(crate) fn told(command: &mut Command) -> String {
    let output = ended(command);
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, all_of(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs it to its end.
pub(crate) fn ended(command: &mut Command) -> Output {
    let output = command.output();
    output.unwrap_or_else(|error| {
        panic!("{command:?}: {error}; apt-get install -y docker.io docker-compose debootstrap")
    })
}

/// Both outputs.
pub(crate) fn all_of(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text)).concat()
}
