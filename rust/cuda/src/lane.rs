//! A driver, its devices, and launches on the caller's streams.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use crate::driver::{Driver, Handle};
use crate::error::{Error, Result};
use crate::image::{self, IMAGES};
use crate::kernels::{ENTRIES, Kernel};

/// Most devices that a lane keeps kernels for.
const MOST_DEVICES: usize = 32;
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
const MAX_DYNAMIC_SHARED: c_int = 8;
/// What a kernel may use without asking.
const DEFAULT_SHARED: u32 = 48 * 1024;

/// How a kernel is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Launch {
    /// Blocks.
    pub(crate) grid: [u32; 3],
    /// Threads of a block.
    pub(crate) threads: u32,
    /// Bytes of dynamic shared memory.
    pub(crate) shared: u32,
}

struct Loaded {
    context: Handle,
    modules: Vec<OnceLock<Result<Module>>>,
    functions: Vec<OnceLock<Result<Function>>>,
}

#[derive(Debug, Clone, Copy)]
struct Module(Handle);
#[derive(Debug, Clone, Copy)]
struct Function(Handle);

// SAFETY: handles of the driver may be used from any thread.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}
// SAFETY: as above.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}
// SAFETY: as above.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// What is known of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory that a block may ask for.
    pub max_shared: u32,
}

/// An open driver with the kernels that were loaded so far.
pub struct Lane {
    driver: Driver,
    count: i32,
    devices: Vec<OnceLock<Result<Device>>>,
    loaded: Vec<OnceLock<Result<Loaded>>>,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("devices", &self.count).field("emulated", &self.driver.emulated).finish()
    }
}

impl Lane {
    /// Opens a driver: the library at `path`, or the one that `HORNBEAM_LIBCUDA` names, or the system's.
    ///
    /// # Errors
    /// Every reason for which no kernel could ever run with it.
    pub fn open(path: Option<&str>) -> Result<Self> {
        let (driver, count) = Driver::open(path)?;
        if let (Some(reason), false) = (image::missing(), driver.emulated) {
            return Err(Error::NoKernels { reason });
        }
        let slots = (count as usize).min(MOST_DEVICES);
        Ok(Self {
            driver,
            count,
            devices: (0..slots).map(|_| OnceLock::new()).collect(),
            loaded: (0..slots).map(|_| OnceLock::new()).collect(),
        })
    }

    /// The lane of the process, opened on first use.
    ///
    /// # Errors
    /// As [`Lane::open`]; the reason is kept, and given again.
    pub fn of_process() -> Result<&'static Self> {
        static LANE: OnceLock<Result<Lane>> = OnceLock::new();
        LANE.get_or_init(|| Self::open(None)).as_ref().map_err(Clone::clone)
    }

    /// Whether this is the host emulation, whose device memory is host memory.
    pub fn is_emulated(&self) -> bool {
        self.driver.emulated
    }

    /// Number of devices.
    pub fn num_devices(&self) -> i32 {
        self.count
    }

    /// What is known of a device.
    ///
    /// # Errors
    /// No such device, or one that is older than the kernels.
    pub fn device(&self, index: i32) -> Result<&Device> {
        let slot = usize::try_from(index).ok().and_then(|i| self.devices.get(i));
        let slot = slot.ok_or(Error::NoSuchDevice { index, count: self.count })?;
        slot.get_or_init(|| self.describe(index)).as_ref().map_err(Clone::clone)
    }

    fn describe(&self, index: i32) -> Result<Device> {
        let mut handle = 0;
        // SAFETY: writes one integer.
        let code = unsafe { (self.driver.device_get)(&raw mut handle, index) };
        self.driver.check("cuDeviceGet", code)?;
        let attribute = |number| self.driver.attribute(handle, number);
        let device = Device {
            name: self.driver.name(handle)?,
            capability: (attribute(75)?, attribute(76)?),
            multiprocessors: attribute(16)?.max(1) as u32,
            max_shared: attribute(97)?.max(0) as u32,
        };
        let (major, minor) = device.capability;
        if major < 8 {
            return Err(Error::OldArchitecture { device: device.name, major, minor });
        }
        Ok(device)
    }

    fn loaded(&self, index: i32) -> Result<&Loaded> {
        let slot = usize::try_from(index).ok().and_then(|i| self.loaded.get(i));
        let slot = slot.ok_or(Error::NoSuchDevice { index, count: self.count })?;
        let load = || {
            self.device(index)?;
            let (mut handle, mut context) = (0, std::ptr::null_mut());
            // SAFETY: each writes one value. The primary context, torch's own, is never released:
            // the lane of the process lives as long as the process.
            unsafe {
                self.driver.check("cuDeviceGet", (self.driver.device_get)(&raw mut handle, index))?;
                let code = (self.driver.primary_context_retain)(&raw mut context, handle);
                self.driver.check("cuDevicePrimaryCtxRetain", code)?;
            }
            Ok(Loaded {
                context,
                modules: IMAGES.iter().map(|_| OnceLock::new()).collect(),
                functions: ENTRIES.iter().map(|_| OnceLock::new()).collect(),
            })
        };
        slot.get_or_init(load).as_ref().map_err(Clone::clone)
    }

    /// Runs `work` with the device's primary context current, as torch leaves it.
    fn in_context<T>(&self, context: Handle, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut current = std::ptr::null_mut();
        // SAFETY: writes one handle.
        self.driver.check("cuCtxGetCurrent", unsafe { (self.driver.context_current)(&raw mut current) })?;
        if current == context {
            return work();
        }
        // SAFETY: a context that this lane retained.
        self.driver.check("cuCtxPushCurrent", unsafe { (self.driver.context_push)(context) })?;
        let outcome = work();
        // SAFETY: pops what was pushed.
        let code = unsafe { (self.driver.context_pop)(&raw mut current) };
        let outcome = outcome?;
        self.driver.check("cuCtxPopCurrent", code)?;
        Ok(outcome)
    }

    fn function(&self, loaded: &Loaded, number: usize, index: i32) -> Result<Handle> {
        let kernel = &ENTRIES[number];
        let find = || {
            let module = loaded.modules[kernel.image]
                .get_or_init(|| {
                    let mut module = std::ptr::null_mut();
                    let bytes = IMAGES[kernel.image].bytes.as_ptr().cast::<c_void>();
                    // SAFETY: an embedded fat binary (the emulation ignores it), context current.
                    let code = unsafe { (self.driver.module_load)(&raw mut module, bytes) };
                    self.driver.check(&format!("cuModuleLoadData of {}", IMAGES[kernel.image].name), code)?;
                    Ok(Module(module))
                })
                .as_ref()
                .map_err(Clone::clone)?;
            let function = self.driver.function(module.0, kernel.name)?;
            // Once, to the most that the device allows: launches then ask for what they need.
            let most = self.device(index)?.max_shared.max(DEFAULT_SHARED) as c_int;
            // SAFETY: a function of this driver.
            let code = unsafe { (self.driver.function_attribute)(function, MAX_DYNAMIC_SHARED, most) };
            self.driver.check(&format!("cuFuncSetAttribute of {}", kernel.name), code)?;
            Ok(Function(function))
        };
        loaded.functions[number].get_or_init(find).as_ref().map(|f| f.0).map_err(Clone::clone)
    }

    /// Loads all kernels without launching them: before a graph is captured.
    ///
    /// # Errors
    /// The device or an image is unusable.
    pub fn prepare(&self, device: i32) -> Result<()> {
        let loaded = self.loaded(device)?;
        self.in_context(loaded.context, || {
            (0..ENTRIES.len()).try_for_each(|number| self.function(loaded, number, device).map(|_| ()))
        })
    }

    /// Launches a kernel that takes one struct by value.
    ///
    /// # Safety
    /// Every address in `parameters` is valid on the device for what the kernel does with it until `stream`, a
    /// stream of the device or 0, has run it.
    ///
    /// # Errors
    /// The device or the image is unusable, or the driver refuses the launch.
    pub(crate) unsafe fn launch<P: Copy>(
        &self,
        device: i32,
        stream: u64,
        kernel: Kernel<P>,
        launch: Launch,
        parameters: &P,
    ) -> Result<()> {
        let loaded = self.loaded(device)?;
        self.in_context(loaded.context, || {
            let function = self.function(loaded, kernel.number(), device)?;
            let mut parameters = *parameters;
            let mut pointers = [(&raw mut parameters).cast::<c_void>()];
            let [x, y, z] = launch.grid;
            // SAFETY: the driver copies the parameters before it returns; the caller answers for
            // their content.
            let code = unsafe {
                (self.driver.launch)(
                    function,
                    x,
                    y,
                    z,
                    launch.threads,
                    1,
                    1,
                    launch.shared,
                    stream as Handle,
                    pointers.as_mut_ptr(),
                    std::ptr::null_mut(),
                )
            };
            if code == 0 {
                Ok(())
            } else {
                self.driver.check(&format!("launch of {}", ENTRIES[kernel.number()].name), code)
            }
        })
    }
}
