//! Records what `hornbeam.build_info()` tells of the compilation: target, profile, compiler.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=HORNBEAM_TARGET={}", variable("TARGET"));
    println!("cargo::rustc-env=HORNBEAM_PROFILE={}", profile(Path::new(&variable("OUT_DIR"))));
    println!("cargo::rustc-env=HORNBEAM_RUSTC={}", compiler());
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| "unknown".to_owned())
}

/// Cargo's `PROFILE` says only debug or release; the folder (`<profile>/build/<crate>/out`) says which.
fn profile(out: &Path) -> String {
    out.ancestors()
        .nth(3)
        .and_then(Path::file_name)
        .map_or_else(|| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn compiler() -> String {
    Command::new(variable("RUSTC"))
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}
