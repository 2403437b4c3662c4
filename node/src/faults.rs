//! Panics wherever threads and tasks do their work, for the test of what becomes of the rest.
//!
//! What can panic must not take more with it than what it was doing. [`point`] stands where work is done; outside of the tests
//! of this crate it is nothing.

#[cfg(test)]
pub(crate) use armed::{panic_after, panics, point};

/// Where a test may have a panic.
#[cfg(not(test))]
#[inline]
pub(crate) fn point(_place: &'static str) {}

#[cfg(test)]
mod armed {
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

    /// Points until the next panic; none comes where this is 0 or less.
    static LEFT: AtomicI64 = AtomicI64::new(0);

    static PANICS: AtomicU64 = AtomicU64::new(0);

    pub(crate) fn point(place: &'static str) {
        // Without writing where there is nothing to count, which is so in nearly all tests.
        if LEFT.load(Ordering::Relaxed) > 0 && LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
            PANICS.fetch_add(1, Ordering::Relaxed);
            panic!("injected: {place}");
        }
    }

    /// Lets the process panic at the point after so many others, wherever that is.
    pub(crate) fn panic_after(points: u32) {
        LEFT.store(i64::from(points) + 1, Ordering::Relaxed);
    }

    /// How often it did so far.
    pub(crate) fn panics() -> u64 {
        PANICS.load(Ordering::Relaxed)
    }
}
