//! The embedded fat binaries.

/// One fat binary: the kernels of one `.cu` file for all architectures.
#[derive(Debug)]
pub struct Image {
    /// The file's stem.
    pub name: &'static str,
    /// The binary; empty when nvcc was not there.
    pub bytes: &'static [u8],
}

/// The driver wants alignment that `include_bytes!` alone does not give.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// One line for `build_info()`: what was compiled with what, or why nothing was.
pub fn build_info() -> String {
    if REASON.is_empty() {
        let size: usize = IMAGES.iter().map(|image| image.bytes.len()).sum();
        let names: Vec<String> = ARCHITECTURES.iter().map(|a| format!("sm_{a}")).collect();
        format!("CUDA {COMPILER} kernels for {} and PTX 8.0, {size} bytes", names.join(", "))
    } else {
        format!("no CUDA kernels: {REASON}")
    }
}

/// Why there are no kernels, if there are none.
pub(crate) fn missing() -> Option<&'static str> {
    (!REASON.is_empty()).then_some(REASON)
}

/// Registers, shared memory and spills of each kernel on each architecture, as ptxas reported them:
/// tab-separated, with a header line. Empty without kernels.
pub fn resources() -> &'static str {
    include_str!(concat!(env!("OUT_DIR"), "/resources.tsv"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The committed table is what the kernels compile to, and nothing in it spills. After a change
    /// of a kernel: `make cuda-resources`, and look at the difference.
    #[test]
    fn resources_are_as_committed_and_nothing_spills() {
        let built = resources();
        if built.is_empty() {
            assert!(missing().is_some());
            eprintln!("nothing compared: {}", build_info());
            return;
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../cuda/resources.tsv");
        if std::env::var_os("HORNBEAM_UPDATE_RESOURCES").is_some() {
            std::fs::write(path, built).unwrap();
        }
        assert_eq!(built, std::fs::read_to_string(path).unwrap(), "make cuda-resources renews {path}");
        for line in built.lines().skip(1) {
            assert!(line.ends_with("\t0\t0"), "spills: {line}");
        }
    }

    #[test]
    fn images_are_aligned_fat_binaries_of_a_modest_size() {
        let total: usize = IMAGES.iter().map(|image| image.bytes.len()).sum();
        assert!(total <= 3 << 20, "{total} bytes");
        for image in &IMAGES {
            assert_eq!(image.bytes.is_empty(), missing().is_some());
            assert_eq!(image.bytes.as_ptr() as usize % 64, 0);
            if !image.bytes.is_empty() {
                assert_eq!(image.bytes[..4], 0xBA55_ED50u32.to_le_bytes(), "{}", image.name);
            }
        }
    }
}
