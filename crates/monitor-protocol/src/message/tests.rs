#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use proptest::prelude::*;

use super::*;
use crate::limits;

fn id() -> impl Strategy<Value = Id> {
    "[a-z0-9][a-z0-9_.-]{0,63}".prop_map(|text| Id::try_from(text.as_str()).unwrap())
}

fn text() -> impl Strategy<Value = String> {
    "[^\\x00]{0,60}"
}

fn create() -> impl Strategy<Value = Create> {
    (
        id(),
        prop::collection::vec(text(), 6),
        prop::collection::vec(text(), 0..5),
        any::<(u64, bool, bool, bool, u32, bool)>(),
    )
        .prop_map(
            |(
                id,
                mut texts,
                list,
                (log_size_max, tty, stdin, stdin_once, timeout_ms, auto_delete),
            )| Create {
                id,
                bundle: texts.pop().unwrap(),
                runtime: texts.pop().unwrap(),
                runtime_args: list.clone(),
                create_args: list.clone(),
                env: list,
                log_path: texts.pop().unwrap(),
                log_size_max,
                tty,
                stdin,
                stdin_once,
                persist_dir: texts.pop().unwrap(),
                pid_file: texts.pop().unwrap(),
                timeout_ms,
                auto_delete,
            },
        )
}

fn exit() -> impl Strategy<Value = Exit> {
    (id(), any::<(u32, i32, i32, bool, u64)>(), text()).prop_map(
        |(id, (pid, code, signal, oom_killed, finished_ns), reason)| Exit {
            id,
            pid,
            code,
            signal,
            oom_killed,
            finished_ns,
            reason,
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        any::<u32>().prop_map(|version| Request::Hello { version }),
        create().prop_map(|create| Request::Create { create }),
        (id(), any::<i32>()).prop_map(|(id, signal)| Request::Signal { id, signal }),
        (id(), id(), text(), any::<(bool, u32)>()).prop_map(
            |(id, exec, process, (tty, timeout_ms))| {
                let exec_args = vec![process.clone()];
                Request::Exec {
                    exec: Exec {
                        id,
                        exec,
                        pid_file: process.clone(),
                        process,
                        exec_args,
                        tty,
                        timeout_ms,
                    },
                }
            }
        ),
        (id(), any::<(u16, u16)>()).prop_map(|(id, (rows, columns))| Request::Resize {
            id,
            rows,
            columns
        }),
        (id(), any::<(bool, bool, bool)>()).prop_map(|(id, (stdin, stdout, stderr))| {
            Request::Attach {
                id,
                stdin,
                stdout,
                stderr,
            }
        }),
        (create(), any::<(u32, u64, bool, bool, bool, bool)>()).prop_map(
            |(create, (pid, start_time, started, pidfd, terminal, stdin))| Request::Adopt {
                adopt: Adopt {
                    create,
                    pid,
                    start_time,
                    started,
                    pidfd,
                    terminal,
                    stdin
                }
            }
        ),
        any::<(u32, i32, i32)>().prop_map(|(pid, code, signal)| Request::OrphanReaped {
            pid,
            code,
            signal
        }),
        (id(), text()).prop_map(|(id, name)| Request::Journal { id, name }),
        (id(), text()).prop_map(|(id, socket)| Request::Notify { id, socket }),
        id().prop_map(|id| Request::Listen { id }),
        Just(Request::List {}),
        Just(Request::Quit {}),
        (create(), text(), text()).prop_map(|(create, images, work)| Request::Restore {
            create,
            images,
            work
        }),
    ]
}

fn from_monitor() -> impl Strategy<Value = FromMonitor> {
    let info = (
        id(),
        exit(),
        any::<(u32, u64)>(),
        prop::collection::vec(id(), 0..3),
    )
        .prop_map(|(id, exit, (pid, start_time), execs)| ContainerInfo {
            id,
            state: State::Exited { exit },
            pid,
            start_time,
            execs,
        });
    prop_oneof![
        (any::<u32>(), prop::collection::vec(info, 0..4)).prop_map(|(number, containers)| {
            FromMonitor::Reply {
                number,
                reply: Reply::List { containers },
            }
        }),
        (any::<u32>(), text()).prop_map(|(number, text)| FromMonitor::Reply {
            number,
            reply: Reply::Failed {
                kind: ErrorKind::Runtime {},
                text
            }
        }),
        exit().prop_map(|exit| FromMonitor::Event {
            event: Event::Exited { exit }
        }),
        id().prop_map(|id| FromMonitor::Event {
            event: Event::Listening { id }
        }),
        (id(), any::<(u32, i32, u64)>()).prop_map(|(id, (arch, number, count))| {
            FromMonitor::Event {
                event: Event::Forbidden {
                    id,
                    arch,
                    number,
                    count,
                },
            }
        }),
    ]
}

proptest! {
    #[test]
    fn requests_come_back_as_they_were_sent(number: u32, request in request()) {
        let sent = ToMonitor { number, request };
        prop_assert_eq!(ToMonitor::decode(&sent.encode().unwrap()), Ok(sent));
    }

    #[test]
    fn answers_come_back_as_they_were_sent(sent in from_monitor()) {
        prop_assert_eq!(FromMonitor::decode(&sent.encode().unwrap()), Ok(sent));
    }

    #[test]
    fn any_bytes_are_refused_or_mean_what_they_say(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(message) = ToMonitor::decode(&bytes) {
            prop_assert_eq!(message.encode().unwrap(), bytes.clone());
        }
        if let Ok(message) = FromMonitor::decode(&bytes) {
            prop_assert_eq!(message.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn a_damaged_request_is_refused_or_means_what_it_says(
        request in request(), at: prop::sample::Index, value: u8, cut: prop::sample::Index,
    ) {
        let mut bytes = ToMonitor { number: 1, request }.encode().unwrap();
        prop_assert!(ToMonitor::decode(&bytes[..cut.index(bytes.len())]).is_err());
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(message) = ToMonitor::decode(&bytes) {
            prop_assert_eq!(message.encode().unwrap(), bytes);
        }
    }
}

#[test]
fn bad_bytes_are_told_apart() {
    let id = |text: &[u8]| {
        let length = u8::try_from(text.len()).unwrap();
        [&[1, 0, 0, 0, 3, length, 0][..], text].concat()
    };
    let long = vec![0; limits::MESSAGE_BYTES + 1];
    for (bytes, expected) in [
        (vec![], DecodeError::Short),
        (vec![1, 0, 0], DecodeError::Short),
        (vec![1, 0, 0, 0], DecodeError::Short),
        (
            vec![1, 0, 0, 0, 200],
            DecodeError::BadTag {
                what: "Request",
                tag: 200,
            },
        ),
        (vec![1, 0, 0, 0, 14, 0], DecodeError::Trailing),
        (vec![1, 0, 0, 0, 3, 255, 255], DecodeError::TooLong),
        (id(b"../x"), DecodeError::BadId),
        (id(b""), DecodeError::BadId),
        (id(b"\xff"), DecodeError::BadText),
        ([&id(b"a")[..], &[0]].concat(), DecodeError::Trailing),
        (long, DecodeError::TooLong),
    ] {
        assert_eq!(ToMonitor::decode(&bytes), Err(expected), "{bytes:?}");
    }
    // Attach with a bool of 2.
    assert_eq!(
        ToMonitor::decode(&[1, 0, 0, 0, 10, 1, 0, b'a', 2, 0, 0]),
        Err(DecodeError::BadTag {
            what: "bool",
            tag: 2
        })
    );
    // A list that promises more than there is.
    assert_eq!(
        FromMonitor::decode(&[1, 1, 0, 0, 0, 7, 255, 1]),
        Err(DecodeError::Short)
    );
}

#[test]
fn long_texts_are_cut_at_a_character() {
    let text = "ä".repeat(limits::TEXT_BYTES);
    let reply = Reply::Failed {
        kind: ErrorKind::Io {},
        text,
    };
    let bytes = FromMonitor::Reply { number: 1, reply }.encode().unwrap();
    let Ok(FromMonitor::Reply {
        reply: Reply::Failed { text, .. },
        ..
    }) = FromMonitor::decode(&bytes)
    else {
        panic!("no failure")
    };
    assert_eq!(text, "ä".repeat(limits::TEXT_BYTES / 2));
}

#[test]
fn a_list_of_512_containers_is_refused_rather_than_cut() {
    let info = |n: usize| ContainerInfo {
        id: Id::try_from("a".repeat(100).as_str()).unwrap(),
        state: State::Created {},
        pid: u32::try_from(n).unwrap(),
        start_time: 0,
        execs: vec![],
    };
    let reply = Reply::List {
        containers: (0..600).map(info).collect(),
    };
    let message = FromMonitor::Reply { number: 1, reply };
    assert_eq!(message.encode(), Err(DecodeError::TooLong));
}
