//! Threads of which the end is noticed.

use std::io;

use tokio::sync::oneshot;

/// Starts a thread; what it returns is told at its end. If it panics, the sender is dropped.
///
/// # Errors
/// When the system does not give one.
pub fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (tell, told) = oneshot::channel();
    // Nobody listens any more when the server has given up: nothing to do.
    let run = move || drop(tell.send(run()));
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)?;
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_and_so_is_a_panic() {
        let told = spawn("qmq-test", || 7).unwrap();
        assert_eq!(told.blocking_recv(), Ok(7));
        let told = spawn("qmq-test", || {
            assert!(std::env::args().count() == 0, "on purpose")
        });
        assert!(told.unwrap().blocking_recv().is_err());
    }
}
