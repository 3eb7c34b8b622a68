use super::*;

fn load(text: &str, drop_ins: &[(&str, &str)]) -> Result<Registries> {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("registries.conf");
    std::fs::write(&main, text).unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    for (name, text) in drop_ins {
        std::fs::write(dir.path().join("d").join(name), text).unwrap();
    }
    Registries::load(&main, &dir.path().join("d"))
}

fn sources(registries: &Registries, text: &str) -> Vec<String> {
    let sources = registries.sources(&text.parse().unwrap()).unwrap();
    let word = |insecure| if insecure { " insecure" } else { "" };
    sources
        .iter()
        .map(|s| format!("{}{}", s.reference, word(s.insecure)))
        .collect()
}

#[test]
fn the_longest_prefix_moves_a_reference() {
    let registries = load(
        r#"
        [[registry]]
        location = "a.io"
        insecure = true
        [[registry]]
        prefix = "a.io/team"
        location = "b.io:5000/x"
        [[registry]]
        prefix = "*.wild.io"
        insecure = true
        [[registry]]
        prefix = "*.moved.io"
        location = "c.io/all"
        "#,
        &[],
    )
    .unwrap();
    for (text, source) in [
        ("a.io/app:1", "a.io/app:1 insecure"),
        ("a.io/team/app:1", "b.io:5000/x/app:1"),
        ("a.io/teams/app:1", "a.io/teams/app:1 insecure"),
        ("other.io/app:1", "other.io/app:1"),
        ("x.y.wild.io/app:1", "x.y.wild.io/app:1 insecure"),
        ("wild.io/app:1", "wild.io/app:1"),
        ("x.moved.io/app:1", "c.io/all/app:1"),
    ] {
        assert_eq!(sources(&registries, text), [source], "{text}");
    }
}

#[test]
fn mirrors_come_first_if_they_are_for_such_a_reference() {
    let registries = load(
        r#"
        [[registry]]
        location = "docker.io"
        [[registry.mirror]]
        location = "m1.io/hub"
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "m2.io"
        insecure = true
        [[registry.mirror]]
        location = "m3.io"
        pull-from-mirror = "tag-only"
        [[registry]]
        location = "d.io"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "m4.io"
        "#,
        &[],
    )
    .unwrap();
    let digest = format!("@sha256:{}", "0".repeat(64));
    assert_eq!(
        sources(&registries, "docker.io/busybox:1"),
        [
            "m2.io/library/busybox:1 insecure",
            "m3.io/library/busybox:1",
            "docker.io/library/busybox:1"
        ]
    );
    assert_eq!(
        sources(&registries, &format!("docker.io/busybox{digest}")),
        [
            format!("m1.io/hub/library/busybox{digest}"),
            format!("m2.io/library/busybox{digest} insecure"),
            format!("docker.io/library/busybox{digest}"),
        ]
    );
    assert_eq!(sources(&registries, "d.io/a:1"), ["d.io/a:1"]);
    assert_eq!(sources(&registries, &format!("d.io/a{digest}")).len(), 2);
}

#[test]
fn a_blocked_registry_says_where_it_is_blocked() {
    let registries = load("[[registry]]\nlocation = \"bad.io\"\nblocked = true\n", &[]).unwrap();
    let error = registries
        .sources(&"bad.io/a".parse().unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("registry bad.io is blocked in "),
        "{error}"
    );
    assert!(error.ends_with("registries.conf"), "{error}");
}

#[test]
fn drop_ins_replace_registries_and_add_aliases() {
    let registries = load(
        "unqualified-search-registries = [\"a.io\"]\n[[registry]]\nlocation = \"x.io\"\nblocked = true\n\
         [aliases]\n\"one\" = \"a.io/one\"\n\"two\" = \"a.io/two\"\n",
        &[
            ("20.conf", "unqualified-search-registries = [\"c.io\"]\n[aliases]\n\"two\" = \"\"\n"),
            ("10.conf", "unqualified-search-registries = [\"b.io\"]\n[[registry]]\nlocation = \"x.io\"\n"),
            ("30.txt", "nonsense"),
        ],
    )
    .unwrap();
    registries.sources(&"x.io/a".parse().unwrap()).unwrap();
    for (text, full) in [
        ("one:5", "a.io/one:5"),
        ("two", "c.io/two:latest"),
        ("team/x", "c.io/team/x:latest"),
        ("localhost/x", "localhost/x:latest"),
    ] {
        let found = registries.candidates(&text.parse().unwrap()).unwrap();
        assert_eq!(found[0].to_string(), full);
    }
}

#[test]
fn an_ambiguous_short_name_names_candidates_file_and_fix() {
    let two = "unqualified-search-registries = [\"a.io\", \"docker.io\"]\n";
    let name = "busybox".parse().unwrap();
    let error = load(two, &[])
        .unwrap()
        .candidates(&name)
        .unwrap_err()
        .to_string();
    for word in [
        "ambiguous list",
        "a.io/busybox:latest or docker.io/library/busybox:latest",
        "registries.conf",
        "short-name-mode",
    ] {
        assert!(error.contains(word), "{word}: {error}");
    }
    let disabled = load(&format!("{two}short-name-mode = \"disabled\"\n"), &[]).unwrap();
    assert_eq!(disabled.candidates(&name).unwrap().len(), 2);
    let option = |mode| load(two, &[]).unwrap().with_short_names(mode);
    let enforcing = option(ShortNames::Enforcing);
    let told = enforcing.candidates(&name).unwrap_err().to_string();
    assert!(
        told.contains("short_name_mode = \"disabled\" in crio.conf"),
        "{told}"
    );
    let stored = enforcing.stored_candidates(&name);
    assert_eq!(stored.unwrap_err().to_string(), told);
    let stored = option(ShortNames::Disabled).stored_candidates(&name);
    assert_eq!(stored.unwrap().len(), 3);
    let by_option = option(ShortNames::Disabled).candidates(&name);
    assert_eq!(by_option.unwrap().len(), 2);
    let none = load("", &[])
        .unwrap()
        .candidates(&name)
        .unwrap_err()
        .to_string();
    assert!(none.contains("no unqualified-search registries"), "{none}");
}

#[test]
fn files_that_are_not_understood_are_refused() {
    for text in [
        "[registries.search]\nregistries = [\"a.io\"]\n",
        "[[registry]]\ninsecure = true\n",
        "[[registry]]\nprefix = \"a.*.io\"\n",
        "[[registry]]\nlocation = \"https://a.io\"\n",
        "short-name-mode = \"sometimes\"\n",
        "[[registry]]\nlocation = \"a.io\"\nmirror-by-digest-only = true\n[[registry.mirror]]\n\
         location = \"b.io\"\npull-from-mirror = \"tag-only\"\n",
        "not toml",
    ] {
        assert!(
            matches!(load(text, &[]), Err(Error::Config { .. })),
            "{text}"
        );
    }
}
