//! Compiles the kernel's part of the packet path (src/net/offload/relay.bpf.c). Without clang, or the kernel's headers,
//! the build goes on and says so: that binary passes on every packet by itself.

#![allow(clippy::disallowed_methods, reason = "cargo says by the environment what it wants")]

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

const SOURCE: &str = "src/net/offload/relay.bpf.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CLANG");
    let object =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where")).join("relay.bpf.o");
    if let Err(why) = compile(&object) {
        // What is not there counts as changed: the next build tries again.
        println!("cargo::rerun-if-changed=of-no-clang");
        println!("cargo::warning=RTP will not be passed on within the kernel: {why}");
        fs::write(&object, []).expect("cargo's folder can be written");
    }
}

fn compile(object: &PathBuf) -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let output = Command::new(&clang)
        .args([
            "-target",
            "bpfel",
            "-fdebug-compilation-dir=.",
            "-mcpu=v3",
            "-O2",
            "-g",
            "-Wall",
            "-Wextra",
            "-Werror",
        ])
        // Where Debian has the headers of its architecture.
        .arg(format!("-I/usr/include/{architecture}-linux-gnu"))
        .args(["-c", SOURCE, "-o"])
        .arg(object)
        .output()
        .map_err(|error| format!("{clang} is needed to compile {SOURCE}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or_default();
    if output.status.success() { Ok(()) } else { Err(format!("{clang} failed: {first}")) }
}
