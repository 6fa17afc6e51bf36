//! Every mistake is reported with its file, line and column, and by what a person would call it.

use std::fs;
use std::path::Path;

use prost_types::{FileDescriptorProto, FileDescriptorSet};
use rdma_rpc_codegen::{Builder, Error, configure};

/// Compiles `files`, of which the first is asked for, and expects an error.
fn fail(files: &[(&str, &str)]) -> Error {
    fail_with(files, |builder| builder)
}

fn fail_with(files: &[(&str, &str)], settings: fn(Builder) -> Builder) -> Error {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let out_dir = folder.path().join("out");
    let builder = settings(configure().out_dir(&out_dir).emit_rerun_if_changed(false));
    let proto = folder.path().join(files[0].0);
    let error = builder.compile_protos(&[proto], &[folder.path()]).unwrap_err();
    assert!(!out_dir.exists(), "nothing is written after an error");
    assert_eq!(format!("{error:?}"), error.to_string());
    error
}

/// Checks place and message of the first finding.
#[track_caller]
fn assert_at(error: &Error, file: &str, line: usize, column: usize, message: &str) {
    let first = &error.diagnostics()[0];
    assert!(first.file().unwrap().ends_with(file), "{error}");
    assert_eq!((first.line(), first.column()), (Some(line), Some(column)), "{error}");
    assert!(first.message().contains(message), "{error}");
    let place = format!("{}:{line}:{column}: ", first.file().unwrap().display());
    assert!(error.to_string().starts_with(&place), "{error}");
}

#[test]
fn a_syntax_error_has_its_place() {
    let error = fail(&[("a.proto", "syntax = \"proto3\";\nmessage A {\n  string = 1;\n}\n")]);
    assert_at(&error, "a.proto", 3, 10, "expected an identifier");
    assert!(error.to_string().contains("3 |   string = 1;\n  |          ^"), "{error}");
}

#[test]
fn an_unfinished_file_is_reported_at_its_end() {
    let error = fail(&[("a.proto", "syntax = \"proto3\";\nmessage A {\n")]);
    assert_at(&error, "a.proto", 2, 12, "reached end of file");
}

#[test]
fn all_syntax_errors_of_a_file_are_reported() {
    let error = fail(&[(
        "a.proto",
        "syntax = \"proto3\";\nmessage A { int32 x = 0; }\nenum E { A = 99999999999; }",
    )]);
    assert_at(&error, "a.proto", 2, 23, "message numbers must be between 1");
    assert!(error.diagnostics().len() >= 2, "{error}");
    assert_eq!(error.diagnostics()[1].line(), Some(3), "{error}");
}

#[test]
fn an_unknown_type_has_its_place() {
    let text = "syntax = \"proto3\";\n// ä\nmessage A {\n\tstring s = 1; Missing m = 2;\n}\n";
    let error = fail(&[("a.proto", text)]);
    assert_at(&error, "a.proto", 4, 16, "'Missing' is not defined");
    let error = fail(&[(
        "a.proto",
        "syntax = \"proto3\";\nmessage A {}\nservice S {\n  rpc Go(A) returns (B);\n}\n",
    )]);
    assert_at(&error, "a.proto", 4, 22, "'B' is not defined");
}

#[test]
fn a_missing_import_has_its_place_and_says_where_was_looked() {
    let error = fail(&[("a.proto", "syntax = \"proto3\";\n\nimport \"gone.proto\";\n")]);
    assert_at(&error, "a.proto", 3, 1, "import 'gone.proto' not found");
    assert!(error.to_string().contains("the include paths are '"), "{error}");
}

#[test]
fn an_error_in_an_import_names_the_imported_file() {
    let error = fail(&[
        ("a.proto", "syntax = \"proto3\";\nimport \"b.proto\";\n"),
        ("b.proto", "syntax = \"proto3\";\nmessage B { C c = 1; }\n"),
    ]);
    assert_at(&error, "b.proto", 2, 13, "'C' is not defined");
}

#[test]
fn an_import_cycle_is_spelled_out() {
    let error = fail(&[
        ("a.proto", "syntax = \"proto3\";\nimport \"b.proto\";\n"),
        ("b.proto", "syntax = \"proto3\";\nimport \"a.proto\";\n"),
    ]);
    assert!(error.to_string().contains("a.proto -> b.proto -> a.proto"), "{error}");
}

#[test]
fn a_name_defined_twice_points_to_both() {
    let error =
        fail(&[("a.proto", "syntax = \"proto3\";\nmessage A {}\nmessage B {}\nmessage A {}\n")]);
    assert_at(&error, "a.proto", 4, 9, "'A' is defined twice");
    assert!(error.to_string().contains("the first is on line 2"), "{error}");
}

#[test]
fn groups_are_refused_with_their_place() {
    let error = fail(&[(
        "a.proto",
        "syntax = \"proto2\";\npackage p;\nmessage A {\n  message B {\n    repeated group Result = 1 {\n      \
         optional int32 x = 2;\n    }\n  }\n}\n",
    )]);
    assert_at(&error, "a.proto", 5, 20, "group 'Result' in message 'p.A.B' is not supported");
    assert!(error.to_string().contains("help: use a nested message"), "{error}");
}

#[test]
fn enum_values_that_become_one_variant_are_refused() {
    let error = fail(&[(
        "a.proto",
        "syntax = \"proto3\";\nenum Version {\n  VERSION_NONE = 0;\n  V_1_0 = 1;\n  V_10 = 2;\n}\n",
    )]);
    assert_at(&error, "a.proto", 5, 3, "enum values 'V_1_0' and 'V_10' of 'Version'");
    assert!(error.to_string().contains("a.proto:4:3"), "{error}");
}

#[test]
fn type_names_that_would_be_wrong_are_refused() {
    let files = [("a.proto", "syntax = \"proto3\";\nmessage A {}\nmessage a {}\n")];
    let error = fail_with(&files, Builder::enable_type_names);
    assert!(error.to_string().contains("'a' has the same name in Rust"), "{error}");
}

#[test]
fn files_outside_the_include_paths_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let proto = folder.path().join("nowhere.proto");
    let error = configure()
        .out_dir(folder.path())
        .compile_protos(&[&proto], &[Path::new("/nonexistent")])
        .unwrap_err();
    assert!(error.to_string().contains("nowhere.proto"), "{error}");
    assert!(error.to_string().contains("the include paths are '/nonexistent'"), "{error}");

    let none: [&Path; 0] = [];
    let error = configure().compile_protos(&none, &none).unwrap_err();
    assert_eq!(error.to_string(), "no .proto files were given");
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let files = [("a.proto", "syntax = \"proto3\";\nmessage A {}\n")];
    type Settings = fn(Builder) -> Builder;
    let cases: [(Settings, &str); 7] = [
        (|b| b.type_attribute(".A", "derive(Eq)"), "type_attribute(\".A\", \"derive(Eq)\")"),
        (|b| b.server_attribute(".", "#["), "server_attribute(\".\", \"#[\")"),
        (|b| b.codegen_path("not a path"), "codegen_path(\"not a path\")"),
        (|b| b.codegen_path("super::x"), "must begin with '::' or 'crate::'"),
        (|b| b.extern_path(".A", "1x"), "extern_path(\".A\", \"1x\")"),
        (|b| b.extern_path("A", "::x::A"), "begin with a leading '.'): A"),
        (
            |b| b.extern_path(".A", "::A").extern_path(".A", "::B"),
            "duplicate extern Protobuf path: .A",
        ),
    ];
    for (settings, expected) in cases {
        let error = fail_with(&files, settings);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn descriptors_that_are_not_complete_are_refused() {
    let file = FileDescriptorProto {
        name: Some("a.proto".to_owned()),
        dependency: vec!["b.proto".to_owned()],
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let error = configure()
        .out_dir(folder.path())
        .compile_fds(FileDescriptorSet { file: vec![file.clone()] })
        .unwrap_err();
    assert!(
        error.to_string().contains("a.proto") && error.to_string().contains("b.proto"),
        "{error}"
    );

    let editions =
        FileDescriptorProto { dependency: Vec::new(), syntax: Some("editions".to_owned()), ..file };
    let error = configure()
        .out_dir(folder.path())
        .compile_fds(FileDescriptorSet { file: vec![editions] })
        .unwrap_err();
    assert!(error.to_string().contains("editions"), "{error}");
}

#[test]
fn errors_pass_through_io_results() {
    let error = fail(&[("a.proto", "x")]);
    let text = error.to_string();
    let error = std::io::Error::from(error);
    assert_eq!(error.to_string(), text);
}
