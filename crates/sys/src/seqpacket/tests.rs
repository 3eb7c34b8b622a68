use std::os::fd::AsFd;

use super::*;

fn dir(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn packets_and_descriptors_arrive_at_short_and_long_paths() {
    let base = dir("seqpacket");
    for name in ["s".to_owned(), "x".repeat(60) + "/" + &"y".repeat(60)] {
        let path = base.join(&name).join("socket");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let listener = listen(&path, Kind::Packets).unwrap();
        let client = connect(&path).unwrap();
        let server = accept(listener.as_fd()).unwrap().unwrap();
        assert_eq!(
            peer_uid(server.as_fd()).unwrap(),
            rustix::process::geteuid().as_raw()
        );
        let (read, write) = rustix::pipe::pipe().unwrap();
        send(client.as_fd(), b"one", &[write.as_fd()]).unwrap();
        send(client.as_fd(), b"two", &[]).unwrap();
        let mut buffer = [0; 64];
        let (n, fds) = receive(server.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..n], fds.len()), (&b"one"[..], 1));
        rustix::io::write(&fds[0], b"through").unwrap();
        assert_eq!(rustix::io::read(&read, &mut buffer).unwrap(), 7);
        let (n, fds) = receive(server.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..n], fds.len()), (&b"two"[..], 0));
        let nothing = receive(server.as_fd(), &mut buffer).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        drop(client);
        assert_eq!(receive(server.as_fd(), &mut buffer).unwrap().0, 0);
    }
    std::fs::remove_dir_all(base).unwrap();
}

#[test]
fn a_packet_that_does_not_fit_is_an_error() {
    let path = dir("seqpacket-size").join("socket");
    let listener = listen(&path, Kind::Packets).unwrap();
    let client = connect(&path).unwrap();
    let server = accept(listener.as_fd()).unwrap().unwrap();
    send(client.as_fd(), &[1; 65], &[]).unwrap();
    let err = receive(server.as_fd(), &mut [0; 64]).unwrap_err();
    assert_eq!(err.raw_os_error(), Some(libc::EMSGSIZE));
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}
