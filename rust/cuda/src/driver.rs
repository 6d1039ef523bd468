//! The driver's entry points, opened at run time.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

use libloading::Library;

use crate::error::{Error, Result};

/// Names the library to open in the place of `libcuda.so.1`.
pub const LIBRARY_VARIABLE: &str = "HORNBEAM_LIBCUDA";

/// An opaque handle of the driver: a context, a module, a function, a stream.
pub(crate) type Handle = *mut c_void;

/// The first driver that loads machine code of CUDA 13.
const OLDEST_DRIVER: c_int = 13000;

macro_rules! driver {
    ($($(#[$doc:meta])* $name:ident: $symbol:literal ($($argument:ty),*);)*) => {
        /// The entry points. Each returns 0 or an error code.
        pub(crate) struct Driver {
            $($(#[$doc])* pub(crate) $name: unsafe extern "C" fn($($argument),*) -> c_int,)*
            /// The library is the host emulation: memory of its device is host memory.
            pub(crate) emulated: bool,
            _library: Library,
        }

        impl Driver {
            fn resolve(library: Library) -> Result<Self> {
                $(
                    // SAFETY: the signature is the one that cuda.h gives this symbol, and the
                    // library is kept beside the pointer.
                    let $name = unsafe {
                        *library.get($symbol).map_err(|_| Error::NoSymbol {
                            symbol: CStr::from_bytes_with_nul($symbol).ok().and_then(|s| s.to_str().ok()).unwrap_or("a symbol"),
                        })?
                    };
                )*
                // SAFETY: only its presence is asked for.
                let emulated = unsafe { library.get::<unsafe extern "C" fn() -> c_int>(b"hornbeam_simt_version\0") }.is_ok();
                Ok(Self { $($name,)* emulated, _library: library })
            }
        }
    };
}

driver! {
    init: b"cuInit\0" (c_uint);
    driver_version: b"cuDriverGetVersion\0" (*mut c_int);
    device_count: b"cuDeviceGetCount\0" (*mut c_int);
    device_get: b"cuDeviceGet\0" (*mut c_int, c_int);
    device_name: b"cuDeviceGetName\0" (*mut c_char, c_int, c_int);
    device_attribute: b"cuDeviceGetAttribute\0" (*mut c_int, c_int, c_int);
    primary_context_retain: b"cuDevicePrimaryCtxRetain\0" (*mut Handle, c_int);
    context_current: b"cuCtxGetCurrent\0" (*mut Handle);
    context_push: b"cuCtxPushCurrent_v2\0" (Handle);
    context_pop: b"cuCtxPopCurrent_v2\0" (*mut Handle);
    module_load: b"cuModuleLoadData\0" (*mut Handle, *const c_void);
    module_function: b"cuModuleGetFunction\0" (*mut Handle, Handle, *const c_char);
    function_attribute: b"cuFuncSetAttribute\0" (Handle, c_int, c_int);
    launch: b"cuLaunchKernel\0" (
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void
    );
    error_name: b"cuGetErrorName\0" (c_int, *mut *const c_char);
    error_string: b"cuGetErrorString\0" (c_int, *mut *const c_char);
}

impl Driver {
    /// Opens and initialises the driver: `path`, or what `HORNBEAM_LIBCUDA` names, or `libcuda.so.1`.
    pub(crate) fn open(path: Option<&str>) -> Result<(Self, c_int)> {
        let path = path.map(str::to_owned).or_else(|| std::env::var(LIBRARY_VARIABLE).ok());
        let path = path.as_deref().unwrap_or(if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" });
        // SAFETY: loading a driver library runs its initialisers; that is what the caller asks for.
        let library = unsafe { Library::new(path) }
            .map_err(|error| Error::NoDriver { path: path.to_owned(), reason: error.to_string() })?;
        let driver = Self::resolve(library)?;
        let mut version = 0;
        // SAFETY: writes one integer; allowed before cuInit.
        driver.check("cuDriverGetVersion", unsafe { (driver.driver_version)(&raw mut version) })?;
        if version < OLDEST_DRIVER {
            return Err(Error::OldDriver { major: version / 1000, minor: version % 1000 / 10 });
        }
        // SAFETY: no pointers.
        match unsafe { (driver.init)(0) } {
            100 => return Err(Error::NoDevice),
            code => driver.check("cuInit", code)?,
        }
        let mut count = 0;
        // SAFETY: writes one integer.
        driver.check("cuDeviceGetCount", unsafe { (driver.device_count)(&raw mut count) })?;
        if count < 1 {
            return Err(Error::NoDevice);
        }
        Ok((driver, count))
    }

    /// An error that says what the driver says about `code`, unless it is 0.
    pub(crate) fn check(&self, call: &str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let ask = |entry: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text = std::ptr::null();
            // SAFETY: on success the driver stores the address of a string that it keeps.
            unsafe {
                (entry(code, &raw mut text) == 0 && !text.is_null())
                    .then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        Err(Error::Driver {
            call: call.to_owned(),
            code,
            name: ask(self.error_name).unwrap_or_else(|| "unknown error".to_owned()),
            text: ask(self.error_string).unwrap_or_default(),
        })
    }

    /// The name of a device.
    pub(crate) fn name(&self, device: c_int) -> Result<String> {
        let mut text = [0 as c_char; 128];
        // SAFETY: the driver writes at most the length that it is given, with a terminator.
        self.check("cuDeviceGetName", unsafe { (self.device_name)(text.as_mut_ptr(), 127, device) })?;
        // SAFETY: terminated: the last byte was never offered.
        Ok(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
    }

    /// An attribute of a device, by the number that cuda.h gives it.
    pub(crate) fn attribute(&self, device: c_int, attribute: c_int) -> Result<c_int> {
        let mut value = 0;
        let code =
            // SAFETY: writes one integer.
            unsafe { (self.device_attribute)(&raw mut value, attribute, device) };
        self.check("cuDeviceGetAttribute", code)?;
        Ok(value)
    }

    /// A function of a module.
    pub(crate) fn function(&self, module: Handle, name: &str) -> Result<Handle> {
        let symbol = CString::new(name).map_err(|_| Error::Unsupported {
            what: "kernel name",
            got: format!("{name:?}"),
            expected: "a name without zero bytes".to_owned(),
        })?;
        let mut function = std::ptr::null_mut();
        let code =
            // SAFETY: the module is one that this driver loaded; the name is terminated.
            unsafe { (self.module_function)(&raw mut function, module, symbol.as_ptr()) };
        self.check(&format!("cuModuleGetFunction of {name}"), code)?;
        Ok(function)
    }
}
