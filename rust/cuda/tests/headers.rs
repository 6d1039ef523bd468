//! The headers of the kernels' parameters are what `src/params` declares.
//!
//! cbindgen writes a header for each file of that folder. This test writes them anew and compares them with the
//! committed ones; `make cuda-headers` keeps what it wrote. What a kernel shares with `hornbeam-core` is taken
//! from there.

use std::fs;
use std::path::{Path, PathBuf};

use cbindgen::{Builder, Config, DocumentationStyle, ItemType, Language, RenameRule};
use hornbeam_core::format::plan::Read;
use hornbeam_core::format::slot::{Entry, RowSlot};
use hornbeam_cuda::params::SIZES;

type Failure = Box<dyn std::error::Error>;

/// A header, a file of `hornbeam-core`, and what the one takes from the other.
const FROM_CORE: [(&str, &str, &[&str]); 3] = [
    ("plan", "format/slot.rs", &["Entry", "RowSlot"]),
    ("plan", "format/plan.rs", &["Read"]),
    ("ratio", "rng.rs", &["Domain"]),
];

/// The sizes of structs of `hornbeam-core`.
const CORE_SIZES: [(&str, usize); 3] =
    [("Entry", size_of::<Entry>()), ("Read", size_of::<Read>()), ("RowSlot", size_of::<RowSlot>())];

/// What the first header has beside its structs: the pointers that a kernel sees in the place of addresses.
const POINTERS: &str = "\
#include <stdint.h>

namespace hornbeam {

// Elements that a kernel reads, or null, and elements that it writes.
template <class T>
using Address = const T*;
template <class T>
using AddressMut = T*;

}  // namespace hornbeam";

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The stems of all files of a folder with an extension, in order; without `mod`.
fn stems(path: &Path, extension: &str) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension().is_some_and(|own| own == extension) {
            found.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    found.retain(|stem| stem != "mod");
    found.sort();
    Ok(found)
}

/// The names after `keyword` at the beginning of lines.
fn declared<'a>(source: &'a str, keyword: &'a str) -> impl Iterator<Item = &'a str> {
    source.lines().filter_map(move |line| {
        line.strip_prefix(keyword)?.split(|c: char| !c.is_alphanumeric() && c != '_').next()
    })
}

fn header(stem: &str) -> Result<String, Failure> {
    let file = folder("src/params").join(format!("{stem}.rs"));
    let source = fs::read_to_string(&file)?;
    let mut config = Config {
        language: Language::Cxx,
        header: Some(format!(
            "// Written from rust/cuda/src/params/{stem}.rs by `make cuda-headers`: edit that file."
        )),
        pragma_once: true,
        no_includes: true,
        after_includes: Some(
            if stem == "pages" { POINTERS } else { "#include \"params/pages.h\"" }.to_owned(),
        ),
        namespace: Some("hornbeam".to_owned()),
        tab_width: 4,
        documentation_style: DocumentationStyle::Cxx,
        ..Config::default()
    };
    config.enumeration.rename_variants = RenameRule::ScreamingSnakeCase;
    config.enumeration.enum_class = false;
    config.constant.allow_static_const = false;
    config.export.exclude = vec!["Address".to_owned(), "AddressMut".to_owned()];
    config.export.item_types =
        vec![ItemType::Structs, ItemType::Enums, ItemType::Constants, ItemType::OpaqueItems];
    let own = declared(&source, "pub struct ").chain(declared(&source, "pub enum "));
    config.export.include = own.map(str::to_owned).collect();

    let mut builder = Builder::new().with_src(&file);
    let mut structs: Vec<&str> = declared(&source, "pub struct ").collect();
    for (_, path, names) in FROM_CORE.iter().filter(|(header, ..)| *header == stem) {
        let path = folder("../core/src").join(path);
        let source = fs::read_to_string(&path)?;
        config.export.include.extend(names.iter().map(|name| (*name).to_owned()));
        config.export.exclude.extend(declared(&source, "pub const ").map(str::to_owned));
        structs.extend(names.iter());
        builder = builder.with_src(path);
    }
    let sizes = SIZES.iter().chain(&CORE_SIZES).filter(|(name, _)| structs.contains(name));
    config.trailer = Some(
        sizes
            .map(|(name, size)| {
                format!("static_assert(sizeof(hornbeam::{name}) == {size}, \"as in Rust\");\n")
            })
            .collect::<String>(),
    );
    let mut text = Vec::new();
    builder.with_config(config).generate()?.write(&mut text);
    Ok(String::from_utf8(text)?)
}

#[test]
fn headers_are_what_the_structs_say() -> Result<(), Failure> {
    let committed = folder("../../cuda/include/params");
    let stems_of_structs = stems(&folder("src/params"), "rs")?;
    let renews = std::env::var_os("HORNBEAM_UPDATE_HEADERS").is_some();
    let mut stale = Vec::new();
    for stem in &stems_of_structs {
        let path = committed.join(format!("{stem}.h"));
        let written = header(stem)?;
        if renews {
            fs::write(&path, &written)?;
        }
        if fs::read_to_string(&path).ok().as_deref() != Some(&written) {
            stale.push(format!("cuda/include/params/{stem}.h"));
        }
    }
    assert!(
        stale.is_empty(),
        "{} is not what rust/cuda/src/params declares: `make cuda-headers` writes it anew",
        stale.join(", ")
    );
    assert_eq!(stems(&committed, "h")?, stems_of_structs, "a header of no file of rust/cuda/src/params");
    Ok(())
}
