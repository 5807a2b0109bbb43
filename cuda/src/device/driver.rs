//! The CUDA driver, opened at run time: the one room that calls it.
//!
//! Everything here is a handle that frees what it holds. Memory is allocated and freed in the order of a stream, so that
//! it outlives the work queued on it there; [`super::buffer`] keeps other streams away from it.

use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{DriverError, result, sys};

use super::chip::{Chip, Limits};
use super::launch::Launch;
use super::tensor_map::{AXES, Plan, Swizzle};
use crate::Error;
use crate::host::aligned::Plain;

/// The oldest driver whose functions are called here.
const OLDEST_DRIVER: (u32, u32) = (12, 0);

/// Errors after which, by the driver's documents, a process gets nothing more from a device.
const LOST: [sys::CUresult; 13] = {
    use sys::CUresult as R;
    [
        R::CUDA_ERROR_DEVICE_UNAVAILABLE,
        R::CUDA_ERROR_ECC_UNCORRECTABLE,
        R::CUDA_ERROR_NVLINK_UNCORRECTABLE,
        R::CUDA_ERROR_ILLEGAL_ADDRESS,
        R::CUDA_ERROR_LAUNCH_TIMEOUT,
        R::CUDA_ERROR_CONTEXT_IS_DESTROYED,
        R::CUDA_ERROR_ASSERT,
        R::CUDA_ERROR_HARDWARE_STACK_ERROR,
        R::CUDA_ERROR_ILLEGAL_INSTRUCTION,
        R::CUDA_ERROR_MISALIGNED_ADDRESS,
        R::CUDA_ERROR_INVALID_ADDRESS_SPACE,
        R::CUDA_ERROR_INVALID_PC,
        R::CUDA_ERROR_LAUNCH_FAILED,
    ]
};

fn told<T>(call: &'static str, outcome: Result<T, DriverError>) -> Result<T, Error> {
    outcome.map_err(|error| {
        let name = error.error_name().ok().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_else(|| format!("error {}", error.0 as i32));
        if LOST.contains(&error.0) { Error::DeviceLost { call, name } } else { Error::Driver { call, name } }
    })
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bytes of numbers.
pub(super) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain` numbers have no padding, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of numbers, to be overwritten.
pub(super) fn bytes_of_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as above, and every pattern of bytes is a number.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// CUDA version that the driver knows.
///
/// # Errors
/// [`Error::NoDriver`] where there is none.
pub(super) fn version() -> Result<(u32, u32), Error> {
    // SAFETY: it only tries to open libraries by the driver's names. Without it, the first call below would panic.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::NoDriver);
    }
    let mut version = 0;
    // SAFETY: the driver is there (checked above) and writes one integer.
    told("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut version) }.result())?;
    let version = version.unsigned_abs();
    Ok((version / 1000, version % 1000 / 10))
}

/// Devices that the driver sees.
///
/// # Errors
/// [`Error::NoDriver`], [`Error::DriverTooOld`], or what the driver says.
pub(super) fn count() -> Result<usize, Error> {
    let found = version()?;
    if found < OLDEST_DRIVER {
        return Err(Error::DriverTooOld { what: "the calls of this program", found, needed: OLDEST_DRIVER });
    }
    match result::init() {
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(0),
        outcome => told("cuInit", outcome)?,
    }
    Ok(usize::try_from(told("cuDeviceGetCount", result::device::get_count())?).unwrap_or(0))
}

/// The driver's encoding of a tensor map, whose plan has been checked and lies in memory of a device.
pub(super) fn encode_tensor_map(plan: &Plan) -> Result<[u64; 16], Error> {
    use sys::{CUtensorMapDataType as Values, CUtensorMapFloatOOBfill as Fill, CUtensorMapSwizzle as Pattern};
    // only bytes are moved, so any type of the size will do
    let values = match plan.value_bytes {
        1 => Values::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        2 => Values::CU_TENSOR_MAP_DATA_TYPE_UINT16,
        4 => Values::CU_TENSOR_MAP_DATA_TYPE_UINT32,
        _ => Values::CU_TENSOR_MAP_DATA_TYPE_UINT64,
    };
    let swizzle = match plan.swizzle {
        Swizzle::None => Pattern::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Bytes32 => Pattern::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::Bytes64 => Pattern::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::Bytes128 => Pattern::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let mut map = sys::CUtensorMap { opaque: [0; 16] };
    let every_value = [1; AXES];
    // SAFETY: the driver is there, since it gave the memory that the plan lies in. It reads `axes` numbers of each array
    // (`axes - 1` strides) and writes the map; it follows no pointer to device memory.
    let outcome = unsafe {
        sys::cuTensorMapEncodeTiled(
            &raw mut map,
            values,
            plan.axes,
            std::ptr::with_exposed_provenance_mut(plan.address as usize),
            plan.sizes.as_ptr(),
            plan.strides.as_ptr(),
            plan.tile.as_ptr(),
            every_value.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            // a tile's rows are pieces of longer rows whose next pieces are wanted next
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    told("cuTensorMapEncodeTiled", outcome.result())?;
    Ok(map.opaque)
}

/// A device's primary context.
pub(super) struct Context {
    device: sys::CUdevice,
    raw: sys::CUcontext,
    pub(super) chip: Chip,
}

// SAFETY: the driver's functions may be called from any thread; `bind` makes the context current on it first.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn open(ordinal: usize) -> Result<Arc<Self>, Error> {
        let found = count()?;
        let Some(index) = i32::try_from(ordinal).ok().filter(|_| ordinal < found) else {
            return Err(Error::NoDevice { ordinal, found, visible: std::env::var("CUDA_VISIBLE_DEVICES").ok() });
        };
        let device = told("cuDeviceGet", result::device::get(index))?;
        let chip = describe(device)?;
        if chip.capability < (8, 0) {
            return Err(Error::ChipTooOld { name: chip.name, capability: chip.capability });
        }
        // SAFETY: the device is one that the driver gave.
        let raw = told("cuDevicePrimaryCtxRetain", unsafe { result::primary_ctx::retain(device) })?;
        Ok(Arc::new(Self { device, raw, chip }))
    }

    fn bind(&self) -> Result<(), Error> {
        // SAFETY: the context is retained for as long as this handle lives.
        told("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.raw) })
    }

    /// Free and total device memory in bytes.
    pub(super) fn memory(&self) -> Result<(usize, usize), Error> {
        self.bind()?;
        told("cuMemGetInfo", result::mem_get_info())
    }

    /// Waits for everything on the device.
    pub(super) fn synchronize(&self) -> Result<(), Error> {
        self.bind()?;
        told("cuCtxSynchronize", result::ctx::synchronize())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once by `open`. A failure at the end of the process has no one to tell.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

fn describe(device: sys::CUdevice) -> Result<Chip, Error> {
    use sys::CUdevice_attribute as Attribute;
    let attribute = |which| {
        // SAFETY: the device is one that the driver gave.
        let value = told("cuDeviceGetAttribute", unsafe { result::device::get_attribute(device, which) })?;
        Ok::<_, Error>(u32::try_from(value).unwrap_or(0))
    };
    let capability = (
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    Ok(Chip {
        name: told("cuDeviceGetName", result::device::get_name(device))?,
        capability,
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        // SAFETY: the device is one that the driver gave.
        memory_bytes: told("cuDeviceTotalMem", unsafe { result::device::total_mem(device) })? as u64,
        l2_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
        driver: Some(version()?),
        limits: Limits {
            shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            threads: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
        },
    })
}

/// A stream, and the memory whose freeing waits until it records no graph.
pub(super) struct Queue {
    context: Arc<Context>,
    raw: sys::CUstream,
    recording: Mutex<Recording>,
}

#[derive(Default)]
struct Recording {
    is_on: bool,
    late: Vec<sys::CUdeviceptr>,
}

// SAFETY: the driver's functions may be called from any thread.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    pub(super) fn new(context: &Arc<Context>) -> Result<Arc<Self>, Error> {
        context.bind()?;
        let raw = told("cuStreamCreate", result::stream::create(result::stream::StreamKind::NonBlocking))?;
        Ok(Arc::new(Self { context: context.clone(), raw, recording: Mutex::default() }))
    }

    pub(super) fn synchronize(&self) -> Result<(), Error> {
        self.context.bind()?;
        // SAFETY: the stream lives as long as this handle.
        told("cuStreamSynchronize", unsafe { result::stream::synchronize(self.raw) })
    }

    pub(super) fn wait(&self, mark: &Mark) -> Result<(), Error> {
        self.context.bind()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: stream and event live as long as their handles.
        told("cuStreamWaitEvent", unsafe { result::stream::wait_event(self.raw, mark.raw, flags) })
    }

    pub(super) fn begin_capture(&self) -> Result<(), Error> {
        self.context.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as this handle.
        told("cuStreamBeginCapture", unsafe { result::stream::begin_capture(self.raw, mode) })?;
        locked(&self.recording).is_on = true;
        Ok(())
    }

    pub(super) fn end_capture(self: &Arc<Self>) -> Result<Replay, Error> {
        self.context.bind()?;
        // SAFETY: the stream lives as long as this handle; `begin_capture` came before.
        let ended = told("cuStreamEndCapture", unsafe { result::stream::end_capture(self.raw) });
        let late = {
            let mut recording = locked(&self.recording);
            recording.is_on = false;
            std::mem::take(&mut recording.late)
        };
        for address in late {
            // SAFETY: `Memory::drop` put it here and freed nothing itself.
            told("cuMemFreeAsync", unsafe { result::free_async(address, self.raw) })?;
        }
        let graph = ended?;
        // SAFETY: the graph is the one just captured.
        let instance = told("cuGraphInstantiate", unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) });
        // SAFETY: the instance is a copy, so the graph is needed no longer.
        let freed = told("cuGraphDestroy", unsafe { result::graph::destroy(graph) });
        let replay = Replay { queue: self.clone(), raw: instance? };
        freed.map(|()| replay)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: created by `new`; the driver finishes what is queued before it forgets the stream.
        let _ = self.context.bind().map(|()| unsafe { result::stream::destroy(self.raw) });
    }
}

/// An instantiated graph.
pub(super) struct Replay {
    queue: Arc<Queue>,
    raw: sys::CUgraphExec,
}

// SAFETY: the driver's functions may be called from any thread, one at a time for one graph: `launch` takes `&mut`.
unsafe impl Send for Replay {}

impl Replay {
    pub(super) fn launch(&mut self) -> Result<(), Error> {
        self.queue.context.bind()?;
        // SAFETY: graph and stream live as long as this handle; its memory is kept alive by `super::graph::Graph`.
        told("cuGraphLaunch", unsafe { result::graph::launch(self.raw, self.queue.raw) })
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        // SAFETY: instantiated by `end_capture`; the driver lets a replay in flight finish.
        let _ = self.queue.context.bind().map(|()| unsafe { result::graph::exec_destroy(self.raw) });
    }
}

/// An event with a time.
pub(super) struct Mark {
    context: Arc<Context>,
    raw: sys::CUevent,
}

// SAFETY: the driver's functions may be called from any thread.
unsafe impl Send for Mark {}
// SAFETY: as above.
unsafe impl Sync for Mark {}

impl Mark {
    pub(super) fn record(queue: &Queue) -> Result<Self, Error> {
        queue.context.bind()?;
        let raw = told("cuEventCreate", result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT))?;
        let mark = Self { context: queue.context.clone(), raw };
        // SAFETY: event and stream live as long as their handles.
        told("cuEventRecord", unsafe { result::event::record(raw, queue.raw) })?;
        Ok(mark)
    }

    pub(super) fn synchronize(&self) -> Result<(), Error> {
        self.context.bind()?;
        // SAFETY: the event lives as long as this handle.
        told("cuEventSynchronize", unsafe { result::event::synchronize(self.raw) })
    }

    pub(super) fn elapsed_ms(&self, later: &Self) -> Result<f32, Error> {
        later.synchronize()?;
        // SAFETY: both events live as long as their handles.
        told("cuEventElapsedTime", unsafe { result::event::elapsed(self.raw, later.raw) })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: created by `record`.
        let _ = self.context.bind().map(|()| unsafe { result::event::destroy(self.raw) });
    }
}

/// Device memory, allocated and freed in the order of its stream.
pub(super) struct Memory {
    queue: Arc<Queue>,
    pub(super) address: u64,
    bytes: usize,
    /// Read by several streams: freed only after all of them are done.
    is_settled: bool,
}

impl Memory {
    pub(super) fn new(queue: &Arc<Queue>, bytes: usize) -> Result<Self, Error> {
        queue.context.bind()?;
        // SAFETY: the stream lives as long as its handle; the driver refuses to allocate nothing, so an empty buffer has a byte.
        let address = match unsafe { result::malloc_async(queue.raw, bytes.max(1)) } {
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => return Err(Error::OutOfMemory { bytes }),
            outcome => told("cuMemAllocAsync", outcome)?,
        };
        Ok(Self { queue: queue.clone(), address, bytes, is_settled: false })
    }

    pub(super) fn settle(&mut self) -> Result<(), Error> {
        self.queue.synchronize()?;
        self.is_settled = true;
        Ok(())
    }

    fn check(&self, from: usize, bytes: usize) {
        assert!(from <= self.bytes && bytes <= self.bytes - from, "bytes {from}+{bytes} of {}", self.bytes);
    }

    /// Copies from the host and waits until it has been done.
    pub(super) fn write(&self, from: usize, bytes: &[u8]) -> Result<(), Error> {
        self.check(from, bytes.len());
        self.queue.context.bind()?;
        if !bytes.is_empty() {
            let to = self.address + from as u64;
            // SAFETY: inside the memory (checked above); the bytes are borrowed until the copy is over, below.
            told("cuMemcpyHtoDAsync", unsafe { result::memcpy_htod_async(to, bytes, self.queue.raw) })?;
        }
        self.queue.synchronize()
    }

    /// Copies to the host and waits until it has been done.
    pub(super) fn read(&self, from: usize, bytes: &mut [u8]) -> Result<(), Error> {
        self.check(from, bytes.len());
        self.queue.context.bind()?;
        if !bytes.is_empty() {
            let at = self.address + from as u64;
            // SAFETY: inside the memory (checked above); the bytes are borrowed until the copy is over, below.
            told("cuMemcpyDtoHAsync", unsafe { result::memcpy_dtoh_async(bytes, at, self.queue.raw) })?;
        }
        self.queue.synchronize()
    }

    /// Queues a fill with one byte.
    pub(super) fn fill(&self, from: usize, bytes: usize, value: u8) -> Result<(), Error> {
        self.check(from, bytes);
        self.queue.context.bind()?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: inside the memory (checked above), which is freed in the order of this stream.
        told("cuMemsetD8Async", unsafe { result::memset_d8_async(self.address + from as u64, value, bytes, self.queue.raw) })
    }

    /// Queues a copy of other memory's bytes on this memory's stream.
    pub(super) fn copy(&self, to: usize, source: &Self, from: usize, bytes: usize) -> Result<(), Error> {
        self.check(to, bytes);
        source.check(from, bytes);
        self.queue.context.bind()?;
        if bytes == 0 {
            return Ok(());
        }
        let (to, from) = (self.address + to as u64, source.address + from as u64);
        // SAFETY: inside both (checked above); the caller has made sure that the source may be read on this stream.
        told("cuMemcpyDtoDAsync", unsafe { result::memcpy_dtod_async(to, from, bytes, self.queue.raw) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut recording = locked(&self.queue.recording);
        if recording.is_on {
            // Freed now, the freeing would become a part of the graph.
            recording.late.push(self.address);
            return;
        }
        if self.is_settled {
            let _ = self.queue.context.synchronize();
        }
        // SAFETY: allocated by `new` on this stream, freed once; work queued on it came earlier in the stream, or is over.
        let _ = self.queue.context.bind().map(|()| unsafe { result::free_async(self.address, self.queue.raw) });
    }
}

/// Loaded machine code.
pub(super) struct Module {
    context: Arc<Context>,
    raw: sys::CUmodule,
}

// SAFETY: the driver's functions may be called from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    pub(super) fn load(context: &Arc<Context>, fatbin: &[u8]) -> Result<Arc<Self>, Error> {
        context.bind()?;
        // The driver reads a header of eight-byte words.
        let mut words = vec![0u64; fatbin.len().div_ceil(8)];
        bytes_of_mut(&mut words)[..fatbin.len()].copy_from_slice(fatbin);
        // SAFETY: a whole fatbin as nvcc wrote it; the driver copies what it needs.
        let raw = told("cuModuleLoadData", unsafe { result::module::load_data(words.as_ptr().cast()) })?;
        Ok(Arc::new(Self { context: context.clone(), raw }))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded by `load`; every function holds its module.
        let _ = self.context.bind().map(|()| unsafe { result::module::unload(self.raw) });
    }
}

/// A kernel of a loaded module.
pub(super) struct Function {
    module: Arc<Module>,
    raw: sys::CUfunction,
    /// Threads that a block of it may have.
    pub(super) threads: u32,
    /// Static shared memory of a block in bytes.
    pub(super) shared_bytes: u32,
}

// SAFETY: the driver's functions may be called from any thread.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    /// Finds a kernel and allows it all the dynamic shared memory that the chip has left.
    pub(super) fn find(module: &Arc<Module>, name: &'static str) -> Result<Self, Error> {
        use sys::CUfunction_attribute as Attribute;
        module.context.bind()?;
        let symbol = CString::new(name).map_err(|_| Error::Driver { call: "cuModuleGetFunction", name: "a zero in the name".into() })?;
        // SAFETY: the module is loaded.
        let raw = told("cuModuleGetFunction", unsafe { result::module::get_function(module.raw, symbol) })?;
        let attribute = |which| {
            // SAFETY: the function was just found and its module is alive.
            let value = told("cuFuncGetAttribute", unsafe { result::function::get_function_attribute(raw, which) })?;
            Ok::<_, Error>(u32::try_from(value).unwrap_or(0))
        };
        let threads = attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
        let shared_bytes = attribute(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
        let dynamic = module.context.chip.limits.shared_bytes.saturating_sub(shared_bytes);
        let most = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: as above.
        told("cuFuncSetAttribute", unsafe { result::function::set_function_attribute(raw, most, dynamic.cast_signed()) })?;
        Ok(Self { module: module.clone(), raw, threads, shared_bytes })
    }

    /// Blocks of this shape that fit on a multiprocessor at once.
    pub(super) fn blocks_per_multiprocessor(&self, threads: u32, shared_bytes: u32) -> Result<u32, Error> {
        self.module.context.bind()?;
        let (threads, shared) = (threads.cast_signed(), shared_bytes as usize);
        // SAFETY: the function's module is alive.
        let blocks = unsafe { result::occupancy::max_active_block_per_multiprocessor(self.raw, threads, shared) };
        Ok(told("cuOccupancyMaxActiveBlocksPerMultiprocessor", blocks)?.unsigned_abs())
    }

    /// Queues the kernel.
    ///
    /// # Safety
    /// `params` holds the kernel's parameter struct, whose pointers the kernel may follow until the stream is past it.
    pub(super) unsafe fn launch(&self, queue: &Queue, launch: Launch, params: *const c_void) -> Result<(), Error> {
        queue.context.bind()?;
        let [grid, block] = [launch.grid, launch.block].map(|[x, y, z]| (x, y, z));
        let mut arguments = [params.cast_mut()];
        // SAFETY: the function's module is alive; the driver reads the parameters before it returns; the rest is the
        // caller's promise.
        told("cuLaunchKernel", unsafe { result::launch_kernel(self.raw, grid, block, launch.shared_bytes, queue.raw, &mut arguments) })
    }
}
