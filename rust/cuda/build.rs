//! Compiles `cuda/*.cu` into fat binaries that the crate embeds, one image a file, and writes down which
//! kernels they declare. A file and a kernel are found by being there; nothing lists them a second time.
//!
//! nvcc is looked for in `HORNBEAM_NVCC`, `CUDA_HOME`, `PATH`, and the PyPI packages of the
//! interpreter (`pip install hornbeam[cuda-build]`). `HORNBEAM_CUDA` is `auto` (without nvcc the
//! images are empty and the reason is recorded), `require` (without nvcc the build fails) or `off`.
//! Images are kept by the hash of what they are made from, so that neither an edit elsewhere nor
//! another profile or checkout runs nvcc again.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Machine code for these; PTX for 8.0 covers what lies between and what comes later.
const ARCHITECTURES: [u32; 6] = [80, 86, 89, 90, 100, 120];

/// `fmad=false`: what decides text is computed with explicit fused multiply-adds only.
const FLAGS: [&str; 9] = [
    "-std=c++17",
    "-O3",
    "--fmad=false",
    "--fatbin",
    "--compress-mode=size",
    "-Werror",
    "all-warnings",
    "-Xptxas",
    "-v",
];

/// The files that take longest, first: the short ones then fill what the last of these leaves idle.
const LONGEST_FIRST: [&str; 3] = ["attention_bf16", "attention_f16", "ratio"];

/// Counts changes of what is kept beside an image.
const FORM: u32 = 2;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let sources = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../cuda");
    let mode = env::var("HORNBEAM_CUDA").unwrap_or_else(|_| "auto".to_owned());
    for name in ["HORNBEAM_CUDA", "HORNBEAM_NVCC", "CUDA_HOME", "VIRTUAL_ENV", "PYO3_PYTHON"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let params = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("src/params");
    for path in [&sources, &params] {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let files = files(&sources)?;
    fs::write(out.join("kernels.rs"), kernels(&sources, &files)?)?;
    fs::write(out.join("sizes.rs"), sizes(&params)?)?;

    let found = match mode.as_str() {
        "off" => Err("HORNBEAM_CUDA=off when it was built".to_owned()),
        "auto" | "require" => find_nvcc(),
        other => return Err(format!("HORNBEAM_CUDA is {other}, expected auto, require or off").into()),
    };
    let (reason, compiler) = match found {
        Ok(nvcc) => {
            println!("cargo::rerun-if-changed={}", nvcc.display());
            (String::new(), compile_all(&nvcc, &sources, &files, &out)?)
        }
        Err(reason) if mode == "require" => return Err(reason.into()),
        Err(reason) => {
            for file in &files {
                fs::write(out.join(format!("{file}.fatbin")), [])?;
            }
            fs::write(out.join("resources.tsv"), "")?;
            (reason, String::new())
        }
    };
    fs::write(out.join("images.rs"), table(&files, &out, &compiler, &reason)?)?;
    Ok(())
}

/// The stems of the kernel sources, in a fixed order: their numbers. One image a file: they compile side by
/// side, load lazily, and an edit recompiles its own file.
fn files(sources: &Path) -> Result<Vec<String>, Failure> {
    let mut stems = Vec::new();
    for entry in fs::read_dir(sources)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            stems.push(
                path.file_stem().and_then(|stem| stem.to_str()).ok_or("a name without letters")?.to_owned(),
            );
        }
    }
    stems.sort();
    if let Some(missing) = LONGEST_FIRST.iter().find(|name| !stems.iter().any(|stem| stem == *name)) {
        return Err(format!("LONGEST_FIRST names {missing}.cu, which is not there").into());
    }
    Ok(stems)
}

/// The Rust source of the table that `kernels.rs` includes: a constant for each `HORNBEAM_KERNEL(name, Parameters,
/// threads, blocks)` of the sources, of the type of its parameters.
fn kernels(sources: &Path, files: &[String]) -> Result<String, Failure> {
    let (mut constants, mut entries, mut names) = (String::new(), String::new(), Vec::new());
    for (image, file) in files.iter().enumerate() {
        let text = fs::read_to_string(sources.join(format!("{file}.cu")))?;
        for declared in text.split("HORNBEAM_KERNEL(").skip(1) {
            let arguments: Vec<_> =
                declared.split(')').next().unwrap_or("").split(',').map(str::trim).collect();
            let [name, parameters, _, _] = arguments[..] else {
                return Err(
                    format!("{file}.cu: HORNBEAM_KERNEL({arguments:?}), expected four arguments").into()
                );
            };
            let short =
                name.strip_prefix("hornbeam_").ok_or(format!("{file}.cu: {name} is no hornbeam_*"))?;
            if names.contains(&name.to_owned()) {
                return Err(format!("{file}.cu: {name} is declared twice").into());
            }
            let parameters = parameters.trim_start_matches("hornbeam::");
            writeln!(constants, "/// `{name}` of {file}.cu.")?;
            writeln!(
                constants,
                "pub(crate) const {}: Kernel<crate::params::{parameters}> = Kernel::new({});",
                short.to_uppercase(),
                names.len()
            )?;
            writeln!(entries, "    Entry {{ image: {image}, name: {name:?} }},")?;
            names.push(name.to_owned());
        }
    }
    let count = names.len();
    Ok(format!(
        "{constants}/// All kernels, by number.\npub(crate) static ENTRIES: [Entry; {count}] = [\n{entries}];\n"
    ))
}

/// The Rust source of the sizes of all structs of `src/params`, which the generated headers assert.
fn sizes(params: &Path) -> Result<String, Failure> {
    let mut names = Vec::new();
    for entry in fs::read_dir(params)? {
        let text = fs::read_to_string(entry?.path())?;
        let declared = text.lines().filter_map(|line| line.strip_prefix("pub struct ")?.strip_suffix(" {"));
        names.extend(declared.map(str::to_owned));
    }
    names.sort();
    let rows: String = names.iter().map(|name| format!("    ({name:?}, size_of::<{name}>()),\n")).collect();
    Ok(format!(
        "/// The name and the bytes of every struct of this module.\npub static SIZES: [(&str, usize); {}] = [\n{rows}];\n",
        names.len()
    ))
}

fn find_nvcc() -> Result<PathBuf, String> {
    let is_file = |path: PathBuf| path.is_file().then_some(path);
    if let Some(path) = env::var_os("HORNBEAM_NVCC") {
        let path = PathBuf::from(path);
        return is_file(path.clone()).ok_or(format!("HORNBEAM_NVCC names {}, no file", path.display()));
    }
    let home = env::var_os("CUDA_HOME").and_then(|home| is_file(Path::new(&home).join("bin/nvcc")));
    let on_path = || {
        let path = env::var_os("PATH")?;
        env::split_paths(&path).find_map(|folder| is_file(folder.join("nvcc")))
    };
    let in_environment = || {
        let environment = env::var_os("VIRTUAL_ENV")?;
        let folders = fs::read_dir(Path::new(&environment).join("lib")).ok()?;
        folders.flatten().find_map(|f| is_file(f.path().join("site-packages/nvidia/cu13/bin/nvcc")))
    };
    let in_interpreter = || {
        let python = env::var_os("PYO3_PYTHON").unwrap_or_else(|| "python3".into());
        let ask = "import nvidia; print('\\n'.join(nvidia.__path__))";
        let answer = Command::new(python).args(["-c", ask]).output().ok()?;
        let answer = String::from_utf8(answer.stdout).ok()?;
        answer.lines().find_map(|folder| is_file(Path::new(folder).join("cu13/bin/nvcc")))
    };
    home.or_else(on_path).or_else(in_environment).or_else(in_interpreter).ok_or_else(|| {
        "no nvcc when it was built (HORNBEAM_NVCC, CUDA_HOME, PATH, or pip install hornbeam[cuda-build])"
            .to_owned()
    })
}

/// Adds a file and what it includes to a hash: an image is made anew for an edit of its own headers only.
fn hash_with_includes(path: &Path, folder: &Path, hash: &mut DefaultHasher) -> Result<(), std::io::Error> {
    let text = fs::read_to_string(path)?;
    text.hash(hash);
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("#include \"") else { continue };
        let included = folder.join(rest.trim_end_matches('"'));
        if included.is_file() {
            hash_with_includes(&included, folder, hash)?;
        }
    }
    Ok(())
}

fn compile_all(nvcc: &Path, sources: &Path, files: &[String], out: &Path) -> Result<String, Failure> {
    let version = Command::new(nvcc).arg("--version").output()?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let mut common = DefaultHasher::new();
    (&version, FLAGS, ARCHITECTURES, FORM).hash(&mut common);
    let folder = cache();
    let jobs: Vec<_> = files
        .iter()
        .map(|file| {
            let source = sources.join(format!("{file}.cu"));
            let mut hash = common.clone();
            hash_with_includes(&source, &sources.join("include"), &mut hash)?;
            Ok((file.as_str(), source, folder.join(format!("{file}-{:016x}", hash.finish()))))
        })
        .collect::<Result<_, std::io::Error>>()?;

    let mut missing: Vec<_> = jobs.iter().filter(|job| !job.2.join("done").is_file()).collect();
    missing.sort_by_key(|job| LONGEST_FIRST.iter().position(|file| *file == job.0).unwrap_or(usize::MAX));
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), String> {
        while let Some((_, source, kept)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            compile(nvcc, source, kept)?;
        }
        Ok(())
    };
    let workers = std::thread::available_parallelism().map_or(2, usize::from).min(missing.len());
    std::thread::scope(|scope| -> Result<(), String> {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        running.into_iter().try_for_each(|job| job.join().map_err(|_| "nvcc thread died".to_owned())?)
    })?;
    let mut resources = String::from("kernel\tarch\tregisters\tstatic_shared\tspill_stores\tspill_loads\n");
    for (file, _, kept) in &jobs {
        fs::copy(kept.join("image.fatbin"), out.join(format!("{file}.fatbin")))?;
        resources += &fs::read_to_string(kept.join("resources.tsv"))?;
    }
    fs::write(out.join("resources.tsv"), resources)?;
    let release = version.lines().find_map(|line| line.split("release ").nth(1)).unwrap_or("unknown");
    Ok(release.split(',').next().unwrap_or(release).to_owned())
}

fn compile(nvcc: &Path, source: &Path, kept: &Path) -> Result<(), String> {
    let text = |error: std::io::Error| format!("{}: {error}", kept.display());
    // Compiled beside and renamed at the end: two builds at once must not see half an image.
    let work = kept.with_extension(std::process::id().to_string());
    fs::create_dir_all(&work).map_err(text)?;
    let mut command = Command::new(nvcc);
    command.args(FLAGS).arg("-I").arg(source.with_file_name("include"));
    for arch in ARCHITECTURES {
        let code = if arch == 80 { "[sm_80,compute_80]".to_owned() } else { format!("sm_{arch}") };
        command.args(["-gencode", &format!("arch=compute_{arch},code={code}")]);
    }
    let run = command.arg("-o").arg(work.join("image.fatbin")).arg(source).output().map_err(text)?;
    let log = String::from_utf8_lossy(&run.stderr).into_owned();
    if !run.status.success() {
        return Err(format!("{command:?} failed\n{log}\n{}", String::from_utf8_lossy(&run.stdout)));
    }
    fs::write(work.join("resources.tsv"), resources(&log)).map_err(text)?;
    fs::write(work.join("done"), "").map_err(text)?;
    if fs::rename(&work, kept).is_err() {
        // Somebody else was faster; the content is the same.
        let _ = fs::remove_dir_all(&work);
    }
    Ok(())
}

fn cache() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    base.unwrap_or_else(env::temp_dir).join("hornbeam/cuda-images")
}

/// What ptxas says about each kernel, a line a kernel and architecture, sorted. Spills of the functions
/// that a kernel calls (they are listed after it) count as its own.
fn resources(log: &str) -> String {
    let number = |line: &str, unit: &str| -> u64 {
        let before = line.split(unit).next().unwrap_or("");
        before.rsplit([' ', ',']).find_map(|word| word.parse().ok()).unwrap_or(0)
    };
    // Registers, shared memory, spill stores, spill loads.
    let (mut rows, mut kernel): (Vec<(String, [u64; 4])>, _) = (Vec::new(), None);
    for line in log.lines() {
        if line.contains("Compiling entry function") {
            let mut quoted = line.split('\'').skip(1).step_by(2);
            kernel = quoted.next().zip(quoted.next()).map(|(k, a)| format!("{k}\t{a}"));
            if let Some(name) = &kernel {
                rows.push((name.clone(), [0; 4]));
            }
        }
        let Some((_, row)) = rows.last_mut().filter(|_| kernel.is_some()) else { continue };
        if line.contains("bytes spill stores") {
            row[2] += number(line, " bytes spill stores");
            row[3] += number(line, " bytes spill loads");
        } else if line.contains("Used") && line.contains("registers") {
            row[0] = number(line, " registers");
            row[1] = if line.contains(" bytes smem") { number(line, " bytes smem") } else { 0 };
        }
    }
    rows.sort();
    rows.iter()
        .map(|(name, [r, shared, stores, loads])| format!("{name}\t{r}\t{shared}\t{stores}\t{loads}\n"))
        .collect()
}

/// The Rust source of the table that `image.rs` includes.
fn table(files: &[String], out: &Path, compiler: &str, reason: &str) -> Result<String, Failure> {
    let mut text = String::new();
    for file in files {
        let path = out.join(format!("{file}.fatbin"));
        let name = file.to_uppercase();
        writeln!(text, "static {name}: &Aligned<[u8]> = &Aligned(*include_bytes!({path:?}));")?;
    }
    writeln!(text, "/// The embedded images.\npub static IMAGES: [Image; {}] = [", files.len())?;
    for file in files {
        writeln!(text, "    Image {{ name: {file:?}, bytes: &{}.0 }},", file.to_uppercase())?;
    }
    writeln!(text, "];")?;
    writeln!(text, "/// Compute capabilities, times ten, that have machine code.")?;
    writeln!(text, "pub static ARCHITECTURES: [u32; {}] = {ARCHITECTURES:?};", ARCHITECTURES.len())?;
    writeln!(text, "static COMPILER: &str = {compiler:?};\nstatic REASON: &str = {reason:?};")?;
    Ok(text)
}
