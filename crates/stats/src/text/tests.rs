use super::*;

#[test]
fn limits_of_both_versions_are_told_from_none() {
    for (text, wanted) in [
        ("max\n", None),
        ("9223372036854771712\n", None),
        ("9223372036854710272\n", None),
        ("67108864\n", Some(67_108_864)),
        ("0\n", Some(0)),
        ("", None),
        ("-1\n", None),
    ] {
        assert_eq!(limit(text), wanted, "{text:?}");
    }
}

#[test]
fn fields_are_found_by_their_whole_name() {
    let text = "cache 1\ntotal_cache 5\ninactive_file 7\ntotal_inactive_file 9\nodd\npgfault x\n";
    assert_eq!(
        fields(text, ["total_inactive_file", "cache", "pgfault", "none"]),
        [9, 1, 0, 0]
    );
    assert_eq!(list("1 2 3 \n"), [1, 2, 3]);
}

#[test]
fn pressure_is_read_with_and_without_full() {
    let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\n\
                full avg10=0.00 avg60=0.10 avg300=0.00 total=99\n";
    let read = pressure(text).unwrap();
    assert_eq!((read.some.total, read.full.total), (1234, 99));
    assert_eq!((read.some.avg10, read.some.avg60), (1.5, 0.25));
    let some = pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n").unwrap();
    assert_eq!((some.some.total, some.full), (5, Stall::default()));
    assert_eq!(pressure(""), None);
}

#[test]
fn both_versions_tell_the_same_of_a_device() {
    let wanted = [Device {
        number: (254, 0),
        read_bytes: 4096,
        written_bytes: 8192,
        reads: 1,
        writes: 2,
    }];
    let v2 = "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n254:x rbytes=1\n";
    assert_eq!(io_v2(v2), wanted);
    let bytes =
        "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 12288\n254:0 Total 12288\nTotal 12288\n";
    let operations = "254:0 Read 1\n254:0 Write 2\nTotal 3\n";
    assert_eq!(io_v1(bytes, operations), wanted);
    assert!(io_v1("Total 0\n", "Total 0\n").is_empty());
}

#[test]
fn interfaces_are_read_without_loopback() {
    let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    1000      10    1    2    0     0          0         0     2000      20    3    4    0     0       0          0
  cut0: 1 2 3
";
    let traffic = |bytes, packets, errors, dropped| Traffic {
        bytes,
        packets,
        errors,
        dropped,
    };
    assert_eq!(
        interfaces(text),
        [Interface {
            name: "eth0".into(),
            received: traffic(1000, 10, 1, 2),
            sent: traffic(2000, 20, 3, 4),
        }]
    );
}

#[test]
fn what_a_pod_makes_many_of_is_bounded() {
    let line = |n: usize| format!("v{n}: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n");
    let text: String = (0..10_000).map(line).collect();
    assert_eq!(interfaces(&text).len(), limits::INTERFACES);
    let text: String = (0..10_000).map(|n| format!("8:{n} Read 1\n")).collect();
    assert_eq!(io_v1(&text, &text).len(), limits::DEVICES);
}

#[test]
fn the_soft_limit_comes_first() {
    let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                Max open files            1024                 524288               files     \n";
    assert_eq!(soft_open_files(text), Some(1024));
    assert_eq!(
        soft_open_files("Max open files            unlimited            unlimited  files\n"),
        None
    );
}
