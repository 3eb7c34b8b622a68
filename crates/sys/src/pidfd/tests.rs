use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::spawn::{Spec, spawn};

const LONG: Option<Duration> = Some(Duration::from_secs(10));

#[test]
fn a_process_is_told_from_its_number_by_its_start_time() {
    let own = rustix::process::getpid();
    let started = start_time(own).unwrap();
    assert!(open_checked(own, started).is_ok());
    assert_eq!(
        open_checked(own, started + 1).unwrap_err().raw_os_error(),
        Some(libc::ESRCH)
    );
}

#[test]
fn the_exit_status_is_there_after_somebody_reaped() {
    let mut spec = Spec::new(Path::new("/bin/sh"));
    spec.args = ["-c", "kill -9 $$"].map(Into::into).into();
    let mut child = spawn(&spec).unwrap();
    let pidfd = open(child.pid()).unwrap();
    assert_eq!(exit_status(pidfd.as_fd()), None);
    let status = child.wait(LONG).unwrap().unwrap();
    assert_eq!(status, Status::Signaled(9));
    assert!(wait_reaped(pidfd.as_fd(), LONG).unwrap());
    if let Some(told) = exit_status(pidfd.as_fd()) {
        assert_eq!(told, status);
    } else {
        eprintln!("skipped: PIDFD_INFO_EXIT needs Linux 6.15");
    }
}
