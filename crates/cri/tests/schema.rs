//! Holds our `.proto` files against the project's copy of the CRI on the wire.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use cri::v1::DESCRIPTORS;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use crioxide_cri as cri;

/// One line of the table without the `since` column: kind, owner, name, number, type.
type Row = [String; 5];

fn row(kind: &str, owner: &str, name: &str, number: &str, kind_of: &str) -> Row {
    [kind, owner, name, number, kind_of].map(str::to_owned)
}

fn wanted() -> BTreeSet<Row> {
    include_str!("cri-wire.tsv")
        .lines()
        .skip(1)
        .map(|line| {
            let cells: Vec<_> = line
                .split('\t')
                .chain(std::iter::repeat(""))
                .take(5)
                .collect();
            row(cells[0], cells[1], cells[2], cells[3], cells[4])
        })
        .collect()
}

fn scalar(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::String => "string",
        Type::Bytes => "bytes",
        Type::Bool => "bool",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::Uint32 => "uint32",
        Type::Uint64 => "uint64",
        Type::Double => "double",
        Type::Message | Type::Enum => field.type_name().rsplit('.').next().unwrap(),
        other => panic!("{other:?} is not used by the CRI"),
    }
    .to_owned()
}

fn type_of(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let entry = message.nested_type.iter().find(|nested| {
        nested.options.as_ref().is_some_and(|o| o.map_entry())
            && field.type_name().ends_with(&format!(".{}", nested.name()))
    });
    match entry {
        Some(entry) => format!(
            "map<{}, {}>",
            scalar(&entry.field[0]),
            scalar(&entry.field[1])
        ),
        None if field.label() == Label::Repeated => format!("repeated {}", scalar(field)),
        None => scalar(field),
    }
}

fn enum_rows(owner: &str, values: &EnumDescriptorProto, rows: &mut BTreeSet<Row>) {
    for value in &values.value {
        rows.insert(row(
            "enum",
            owner,
            value.name(),
            &value.number().to_string(),
            "",
        ));
    }
}

fn ours() -> BTreeSet<Row> {
    let mut rows = BTreeSet::new();
    for file in FileDescriptorSet::decode(DESCRIPTORS).unwrap().file {
        assert_eq!(file.package(), "runtime.v1", "{}", file.name());
        for service in &file.service {
            for method in &service.method {
                assert!(!method.client_streaming(), "{}", method.name());
                let stream = if method.server_streaming() {
                    "stream "
                } else {
                    ""
                };
                let bare = |name: &str| name.rsplit('.').next().unwrap().to_owned();
                let shape = format!(
                    "{} -> {stream}{}",
                    bare(method.input_type()),
                    bare(method.output_type())
                );
                rows.insert(row("rpc", service.name(), method.name(), "", &shape));
            }
        }
        for values in &file.enum_type {
            enum_rows(values.name(), values, &mut rows);
        }
        for message in &file.message_type {
            for values in &message.enum_type {
                enum_rows(
                    &format!("{}.{}", message.name(), values.name()),
                    values,
                    &mut rows,
                );
            }
            if message.field.is_empty() {
                rows.insert(row("empty", message.name(), "", "", ""));
            }
            for field in &message.field {
                let number = field.number().to_string();
                rows.insert(row(
                    "field",
                    message.name(),
                    field.name(),
                    &number,
                    &type_of(message, field),
                ));
            }
        }
    }
    rows
}

#[test]
fn every_call_message_and_field_is_as_on_the_wire() {
    let (wanted, ours) = (wanted(), ours());
    let missing: Vec<_> = wanted.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&wanted).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "missing: {missing:#?}\nextra: {extra:#?}"
    );
    assert_eq!(wanted.iter().filter(|row| row[0] == "rpc").count(), 43);
}

#[test]
fn credentials_are_never_printed() {
    let auth = cri::v1::AuthConfig {
        username: "ann".into(),
        password: "p4ss".into(),
        auth: "YW5uOnA0c3M=".into(),
        server_address: "registry.example".into(),
        identity_token: "t0ken".into(),
        registry_token: "r3g".into(),
    };
    let request = cri::v1::PullImageRequest {
        auth: Some(auth),
        ..Default::default()
    };
    let text = format!("{request:?}");
    for secret in ["ann", "p4ss", "YW5u", "t0ken", "r3g"] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
}
