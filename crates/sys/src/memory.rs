//! The allocator's appetite.

/// Bounds the number of arenas that glibc's allocator makes (mallopt(3), `M_ARENA_MAX`): each
/// costs memory that threads which come and go don't give back. Nothing elsewhere.
#[allow(unsafe_code, reason = "mallopt is a C function")]
pub fn limit_arenas(count: i32) {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: no pointers; mallopt may be called at any time, and is here before any thread.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, count) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _: i32 = count;
}

/// Has glibc's allocator give back what is freed, for a process that lives long and needs little
/// (mallopt(3)): one arena, 16 KiB at most kept at the heap's top, and a mapping of its own for
/// whatever is as large. Nothing elsewhere.
#[allow(unsafe_code, reason = "mallopt is a C function")]
pub fn stay_small() {
    limit_arenas(1);
    #[cfg(target_env = "gnu")]
    {
        const KEPT: i32 = 16 << 10;
        for threshold in [libc::M_TRIM_THRESHOLD, libc::M_MMAP_THRESHOLD] {
            // SAFETY: as above.
            unsafe { libc::mallopt(threshold, KEPT) };
        }
    }
}

/// Gives what is freed back to the kernel at once (malloc_trim(3)). Nothing elsewhere.
#[allow(unsafe_code, reason = "malloc_trim is a C function")]
pub fn trim() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: no pointers; it may be called at any time, from any thread.
        unsafe { libc::malloc_trim(0) };
    }
}
