use std::time::Instant;

use super::*;

const LONG: Duration = Duration::from_secs(20);

fn sh(script: &str) -> Program {
    Program::new("/bin/sh", LONG).args(["-c", script])
}

#[test]
fn output_input_code_and_signal_come_through() {
    let out = run(&sh("cat; echo err >&2; exit 7").stdin("hello")).unwrap();
    assert_eq!((out.status, out.truncated), (Status::Exited(7), false));
    assert_eq!((&*out.stdout, &*out.stderr), (&b"hello"[..], &b"err\n"[..]));
    assert_eq!(
        run(&sh("kill -TERM $$")).unwrap().status,
        Status::Signaled(15)
    );
}

#[test]
fn the_environment_is_what_was_given_and_descriptors_are_three() {
    let out = run(&sh("echo $A; ls /proc/self/fd | wc -l")
        .env("A", "b")
        .env("PATH", "/bin:/usr/bin"))
    .unwrap();
    // 0, 1, 2 and the one that lists.
    assert_eq!(out.stdout, b"b\n4\n");
}

#[test]
fn output_beyond_the_limit_is_dropped_and_said() {
    let mut program = sh("head -c 300000 /dev/zero").env("PATH", "/bin:/usr/bin");
    program.output_limit = 1000;
    let out = run(&program).unwrap();
    assert_eq!(
        (out.status, out.stdout.len(), out.truncated),
        (Status::Exited(0), 1000, true)
    );
}

#[test]
fn large_input_and_output_at_once_do_not_block() {
    let bytes = vec![7u8; 900_000];
    let mut program = Program::new("/bin/cat", LONG).stdin(bytes.clone());
    program.output_limit = 1 << 20;
    assert!(run(&program).unwrap().stdout == bytes);
}

#[test]
fn a_program_that_does_not_exist_is_told_with_its_stage() {
    let err = run(&Program::new("/nonexistent", LONG)).unwrap_err();
    let Error::Start { stage, source, .. } = err else {
        panic!("{err:?}")
    };
    assert_eq!(
        (stage, source.raw_os_error()),
        ("execve", Some(libc::ENOENT))
    );
}

#[test]
fn a_time_out_kills_the_group_and_keeps_what_was_written() {
    let start = Instant::now();
    let mut program = sh("echo begun; sleep 100 & sleep 100").env("PATH", "/bin:/usr/bin");
    program.timeout = Duration::from_millis(200);
    let Err(Error::TimedOut { stdout, .. }) = run(&program) else {
        panic!("did not time out")
    };
    assert_eq!(stdout, b"begun\n");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_descendant_that_keeps_the_pipe_does_not_hold_us() {
    let start = Instant::now();
    let out = run(&sh("setsid sleep 3 & echo done").env("PATH", "/bin:/usr/bin")).unwrap();
    assert_eq!(out.stdout, b"done\n");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_child_is_waited_for_signalled_and_counted() {
    let before = count();
    let mut spec = Spec::new(Path::new("/bin/sleep"));
    spec.args = vec!["100".into()];
    spec.session = Session::Own;
    let mut child = spawn(&spec).unwrap();
    assert!(count() > before);
    assert_eq!(child.wait(Some(Duration::from_millis(20))).unwrap(), None);
    child.signal(Signal::TERM).unwrap();
    assert_eq!(child.wait(Some(LONG)).unwrap(), Some(Status::Signaled(15)));
    assert_eq!(child.try_wait().unwrap(), Some(Status::Signaled(15)));
}

#[test]
fn descriptors_are_moved_even_where_numbers_cross() {
    let (a_read, a_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (b_read, b_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    use std::os::fd::AsRawFd;
    let mut spec = Spec::new(Path::new("/bin/sh"));
    let (a, b) = (a_write.as_raw_fd(), b_write.as_raw_fd());
    spec.args = vec![
        "-c".into(),
        format!("echo to-a >/dev/fd/{b}; echo to-b >/dev/fd/{a}").into(),
    ];
    spec.fds = vec![(a_write.as_fd(), b), (b_write.as_fd(), a)];
    let mut child = spawn(&spec).unwrap();
    child.wait(Some(LONG)).unwrap();
    let mut buffer = [0; 16];
    let n = rustix::io::read(&a_read, &mut buffer).unwrap();
    assert_eq!(&buffer[..n], b"to-a\n");
    let n = rustix::io::read(&b_read, &mut buffer).unwrap();
    assert_eq!(&buffer[..n], b"to-b\n");
}
