//! What a container finds that its request does not name: its user's entry in the account files,
//! the sign that it is a container, its image's volumes.

use std::path::Path;

use anyhow::Result;
use cri::v1;
use serde_json::json;
use testkit::image_maker::{Entry, ImageMaker};
use testkit::node::Options;
use testkit::requests::{self, container, with_users};

use crate::fixture::{self, Fixture};

/// A node with an image that has accounts and volumes.
async fn fixture(config: &str) -> Result<(Fixture, String)> {
    let options = Options {
        config: config.into(),
        ..Options::default()
    };
    let f = fixture::with(options).await?;
    let passwd = "root:x:0:0:root:/root:/bin/sh\nknown:x:1000:1000::/home:/bin/sh";
    let image = ImageMaker::busybox()
        .layer(&[
            Entry::directory("etc", 0o755),
            Entry::file("etc/passwd", 0o644, passwd),
            Entry::file("etc/group", 0o644, "root:x:0:\n"),
            Entry::directory("there", 0o700),
        ])
        .config(
            "Volumes",
            json!({"/made/deep": {}, "/there": {}, "/../../up": {}, "/mounted": {}}),
        );
    f.registry.push("test/own", "latest", &image.build())?;
    let own = f.registry.reference("test/own", "latest");
    f.node.pull(&own).await?;
    Ok((f, own))
}

fn of_user(name: &str, image: &str, uid: i64) -> v1::ContainerConfig {
    let mut config = container(name, image, &["sleep", "1000"]);
    config.linux.as_mut().unwrap().security_context = Some(v1::LinuxContainerSecurityContext {
        run_as_user: Some(v1::Int64Value { value: uid }),
        run_as_group: Some(v1::Int64Value { value: 77 }),
        ..Default::default()
    });
    config
}

async fn said(f: &Fixture, id: &str, script: &str) -> Result<String> {
    let done = f.node.exec(id, &["sh", "-c", script]).await?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    Ok(text + &String::from_utf8_lossy(&done.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_the_image_does_not_know_has_an_entry() -> Result<()> {
    let (f, image) = fixture("").await?;
    let pod = f.node.run_pod("p").await?;
    let stranger = f.node.run(&pod, of_user("s", &image, 4321)).await?;
    let passwd = said(&f, &stranger, "cat /etc/passwd; ls -ln /etc/passwd").await?;
    let mut lines = passwd.lines();
    assert_eq!(lines.next(), Some("root:x:0:0:root:/root:/bin/sh"));
    assert_eq!(lines.next(), Some("known:x:1000:1000::/home:/bin/sh"));
    let line = "4321:x:4321:77:4321 user:/:/sbin/nologin";
    assert_eq!(lines.next(), Some(line), "{passwd}");
    let listed = lines.next().unwrap_or_default();
    assert!(listed.starts_with("-rw-r--r--"), "{listed}");
    assert_eq!(
        said(&f, &stranger, "cat /etc/group").await?,
        "root:x:0:\n77:x:77:\n"
    );
    let write = "echo x 2>&1 >> /etc/passwd || echo refused";
    assert!(said(&f, &stranger, write).await?.contains("refused"));

    // Known by number: the image's own files.
    let mut known = of_user("k", &image, 1000);
    let security = known.linux.as_mut().unwrap().security_context.as_mut();
    security.unwrap().run_as_group = Some(v1::Int64Value { value: 0 });
    let known = f.node.run(&pod, known).await?;
    let mounted = "grep -c -e ' /etc/passwd ' -e ' /etc/group ' /proc/mounts";
    assert_eq!(said(&f, &known, mounted).await?.trim(), "0");

    // What the request mounts there stays.
    let passwd = f.node.dir.join("passwd");
    std::fs::write(&passwd, "mine:x:1:1::/:/\n")?;
    let mut given = of_user("g", &image, 4321);
    given.mounts.push(v1::Mount {
        container_path: "/etc/passwd".into(),
        host_path: passwd.display().to_string(),
        ..Default::default()
    });
    let given = f.node.run(&pod, given).await?;
    assert_eq!(
        said(&f, &given, "cat /etc/passwd").await?,
        "mine:x:1:1::/:/\n"
    );
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_can_see_that_it_is_one() -> Result<()> {
    let (f, image) = fixture("").await?;
    let pod = f.node.run_pod("p").await?;
    let id = f
        .node
        .run(&pod, container("c", &image, &["sleep", "1000"]))
        .await?;
    let size = said(&f, &id, "wc -c < /run/.containerenv").await?;
    assert_eq!(size.trim(), "0");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_images_volumes_are_what_the_option_says() -> Result<()> {
    let list = "for dir in /made/deep /there /up; do stat -c '%n %u %g %a' $dir || echo none; \
                grep -c \" $dir \" /proc/mounts; done 2>/dev/null";
    for (option, seen) in [
        (
            "mkdir",
            "/made/deep 4321 77 755\n0\n/there 0 0 700\n0\n/up 4321 77 755\n0\n",
        ),
        (
            "bind",
            "/made/deep 0 0 755\n1\n/there 0 0 755\n1\n/up 0 0 755\n1\n",
        ),
        ("ignore", "none\n0\n/there 0 0 700\n0\nnone\n0\n"),
    ] {
        let config = format!("[crio.image]\nimage_volumes = \"{option}\"\n");
        let (f, image) = fixture(&config).await?;
        let pod = f.node.run_pod("p").await?;
        let host = f.node.dir.join("host");
        std::fs::create_dir(&host)?;
        std::fs::write(host.join("file"), "the request's")?;
        let mut config = of_user("c", &image, 4321);
        config.mounts.push(v1::Mount {
            container_path: "/mounted".into(),
            host_path: host.display().to_string(),
            ..Default::default()
        });
        let id = f.node.run(&pod, config).await?;
        assert_eq!(said(&f, &id, list).await?, seen, "{option}");
        let file = said(&f, &id, "cat /mounted/file").await?;
        assert_eq!(file, "the request's", "{option}");
        f.node.finish().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_has_the_time_zone_that_is_configured() -> Result<()> {
    let zone = "usr/share/zoneinfo/Europe/Berlin";
    let Ok(bytes) = std::fs::read(Path::new("/").join(zone)) else {
        eprintln!("skipped: no time zones on this machine (tzdata)");
        return Ok(());
    };
    let (f, image) = fixture("[crio.runtime]\ntimezone = \"Europe/Berlin\"\n").await?;
    let pod = f.node.run_pod("p").await?;
    let without = container("c", &image, &["sleep", "1000"]);
    let without = f.node.run(&pod, without).await?;
    let read = f.node.exec(&without, &["cat", "/etc/localtime"]).await?;
    assert_eq!(read.stdout, bytes, "the node's");

    // An image with zones of its own.
    let dirs = ["etc", "usr", "usr/share", "usr/share/zoneinfo"];
    let mut entries = dirs.map(|dir| Entry::directory(dir, 0o755)).to_vec();
    entries.push(Entry::symlink("etc/localtime", "/etc/passwd"));
    entries.push(Entry::directory("usr/share/zoneinfo/Europe", 0o755));
    entries.push(Entry::file(zone, 0o644, "its own"));
    let own = ImageMaker::busybox().layer(&entries);
    f.registry.push("test/zones", "latest", &own.build())?;
    let own = f.registry.reference("test/zones", "latest");
    f.node.pull(&own).await?;
    let with = f
        .node
        .run(&pod, container("w", &own, &["sleep", "1000"]))
        .await?;
    let link = said(&f, &with, "readlink /etc/localtime; cat /etc/localtime").await?;
    assert_eq!(link, format!("../{zone}\nits own"));
    f.node.finish().await?;

    let wrong = fixture("[crio.runtime]\ntimezone = \"No/Where\"\n").await;
    let text = format!("{:#}", wrong.map(|_| ()).unwrap_err());
    assert!(text.contains("invalid timezone: No/Where"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_variables_are_bytes() -> Result<()> {
    let (f, image) = fixture("").await?;
    let pod = |name| requests::pod(name, &f.node.logs());
    let plain = f.node.run_pod_config(pod("plain")).await?;
    let own_users = f.node.run_pod_config(with_users(pod("users"))).await?;
    for (pod, user, read_only) in [
        (&plain, 1000, false),
        (&plain, 0, true),
        (&own_users, 1000, false),
    ] {
        let mut config = of_user(&format!("c{user}"), &image, user);
        config.envs = [
            ("RAW", &b"\xffa%41\n\x80"[..]),
            ("TEXT", "100 % größer".as_bytes()),
        ]
        .map(|(key, value)| v1::KeyValue {
            key: key.into(),
            value: value.into(),
        })
        .to_vec();
        let security = config.linux.as_mut().unwrap().security_context.as_mut();
        security.unwrap().readonly_rootfs = read_only;
        let id = f.node.run(pod, config).await?;

        let wanted = "ff 61 25 34 31 0a 80\n100 % größer\n";
        let printed = "printf %s \"$RAW\" | od -An -tx1; echo \"$TEXT\"";
        assert_eq!(said(&f, &id, printed).await?.trim_start(), wanted);
        // What runs is the command, with the same bytes.
        let first = "tr '\\0' ' ' < /proc/1/cmdline; tr '\\0\\n' '\\n_' < /proc/1/environ | \
                     grep ^RAW= | od -An -tx1";
        let raw = "sleep 1000  52 41 57 3d ff 61 25 34 31 5f 80 0a\n";
        assert_eq!(said(&f, &id, first).await?, raw);
        let missing = f.node.exec(&id, &["/no/such"]).await?;
        assert_eq!(missing.exit_code, 127);
    }
    f.node.finish().await
}
