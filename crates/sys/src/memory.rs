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
