//! The most memory that this process has held.

/// Bytes of real memory at the highest so far; `None` where the system does not tell.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn peak_memory() -> Option<u64> {
    high_water_mark(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Bytes of real memory at the highest so far; `None` where the system does not tell.
#[cfg(target_os = "macos")]
pub fn peak_memory() -> Option<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a whole `rusage` of our own, which the call fills; all zeros are a valid one, so it may be read either way.
    let (status, usage) = unsafe { (libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), usage.assume_init()) };
    // macOS counts in bytes, where Linux counts in KiB.
    u64::try_from(usage.ru_maxrss).ok().filter(|&bytes| status == 0 && bytes > 0)
}

/// Bytes of real memory at the highest so far; `None` where the system does not tell.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos")))]
pub fn peak_memory() -> Option<u64> {
    None
}

/// The line `VmHWM:   1234 kB`.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn the_mark_is_read_or_absent() {
        assert_eq!(super::high_water_mark("VmPeak:\t 9 kB\nVmHWM:\t    1234 kB\n"), Some(1_263_616));
        assert_eq!(super::high_water_mark("VmPeak:\t 9 kB\n"), None);
        assert_eq!(super::high_water_mark("VmHWM:\t many kB\n"), None);
        assert_eq!(super::high_water_mark("VmHWM:\t 99999999999999999999 kB\n"), None);
    }

    #[cfg(any(target_os = "linux", target_os = "macos"))]
    #[test]
    fn the_peak_rises_with_what_is_touched() {
        const TOUCHED: usize = 64 << 20;
        let touched = std::hint::black_box(vec![1_u8; TOUCHED]);
        assert!(super::peak_memory().is_some_and(|bytes| bytes >= TOUCHED as u64));
        drop(touched);
    }
}
