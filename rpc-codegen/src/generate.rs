//! Checked descriptors to files of Rust.

use std::path::PathBuf;

use prost_types::FileDescriptorProto;

use crate::builder::Builder;
use crate::check::check;
use crate::error::{Diagnostic, Error};
use crate::load::Loaded;
use crate::output::{Reach, format, include_file, write_if_changed};
use crate::paths::Attributes;
use crate::rename::{Renames, disambiguate, dotted_package, module_of};
use crate::service::{StubGenerator, plan};
use crate::{comments, locate};

/// Generates and writes everything the builder asks for.
pub(crate) fn generate(builder: &Builder, loaded: Loaded) -> Result<(), Error> {
    let (out_dir, is_cargos) = out_dir(builder)?;
    let mut files = loaded.set.file;
    for file in &mut files {
        prepare(file, builder);
    }
    check(&files, &builder.externs, &loaded.sources)?;
    let (renames, mut modules) = disambiguate(&mut files, &builder.externs);
    // A renamed enum strips another prefix from its values.
    check(&files, &builder.externs, &loaded.sources)?;
    refuse_wrong_type_names(builder, &renames)?;

    let mut config = config(builder, &renames);
    if builder.stubs.build_client || builder.stubs.build_server {
        config.service_generator(Box::new(StubGenerator {
            settings: builder.stubs.clone(),
            externs: builder.externs.clone(),
            plan: plan(&files, &mut modules),
        }));
    }
    let requests = files.into_iter().map(|file| (module_of(&file), file)).collect();
    let code = config
        .generate(requests)
        .map_err(|error| Error::misuse(error.to_string()).with_source(error))?;

    let mut written = Vec::new();
    for (module, code) in code {
        let file_name = module.to_file_name_or(&builder.default_package_filename);
        write_if_changed(&out_dir.join(&file_name), format(&module, &code)?.as_bytes())?;
        written.push((module, file_name));
    }
    if let Some(path) = &builder.include_file {
        written.sort();
        let reach = if is_cargos { Reach::OutDir } else { Reach::of(&out_dir, path)? };
        let text = include_file(&written, &reach);
        write_if_changed(&out_dir.join(path), text.as_bytes())?;
    }
    if let Some(path) = &builder.file_descriptor_set_path {
        write_if_changed(path, &loaded.encoded)?;
    }
    Ok(())
}

/// The folder to write to, and whether cargo chose it.
fn out_dir(builder: &Builder) -> Result<(PathBuf, bool), Error> {
    match &builder.out_dir {
        Some(out_dir) => Ok((out_dir.clone(), false)),
        None => match std::env::var_os("OUT_DIR") {
            Some(out_dir) => Ok((out_dir.into(), true)),
            None => Err(Error::misuse(
                "there is no output folder: OUT_DIR is not set, which cargo does for build \
                 scripts, and out_dir() was not called",
            )),
        },
    }
}

/// Smooths out what prost-build takes amiss.
fn prepare(file: &mut FileDescriptorProto, builder: &Builder) {
    if file.package.as_deref() == Some("") {
        file.package = None;
    }
    // Services of packages that another crate generates are that crate's.
    let package = dotted_package(file);
    file.service
        .retain(|service| !builder.externs.covers(&format!("{package}.{}", service.name())));
    locate::complete(file);
    comments::defuse(file);
}

/// `prost::Name` would give the changed name, which is wrong on the wire.
fn refuse_wrong_type_names(builder: &Builder, renames: &Renames) -> Result<(), Error> {
    if !builder.enable_type_names || renames.types.is_empty() {
        return Ok(());
    }
    let refused = renames.types.iter().map(|(old, new)| {
        Diagnostic::new(format!(
            "'{}' has the same name in Rust as another type, and would become '{}'; with \
             enable_type_names() that would change the name in its type URL",
            &old[1..],
            &new[1..]
        ))
        .with_help("rename the type in the .proto file")
    });
    Err(Error::new(refused.collect()))
}

fn config(builder: &Builder, renames: &Renames) -> prost_build::Config {
    let mut config = prost_build::Config::new();
    // Messages have the docs their authors gave them; that must not break a crate that denies
    // missing ones. What the user adds comes after.
    config.type_attribute(".", "#[allow(missing_docs)]");
    for (path, attribute) in aliased(&builder.type_attributes, renames) {
        config.type_attribute(path, attribute);
    }
    for (path, attribute) in aliased(&builder.field_attributes, renames) {
        config.field_attribute(path, attribute);
    }
    for (path, attribute) in aliased(&builder.message_attributes, renames) {
        config.message_attribute(path, attribute);
    }
    for (path, attribute) in aliased(&builder.enum_attributes, renames) {
        config.enum_attribute(path, attribute);
    }
    let all = |paths: &[String]| -> Vec<String> {
        let aliases = paths.iter().flat_map(|path| renames.also_known_as(path));
        paths.iter().cloned().chain(aliases).collect()
    };
    config.bytes(all(&builder.bytes));
    config.btree_map(all(&builder.btree_map));
    for path in all(&builder.boxed) {
        config.boxed(path);
    }
    config.skip_debug(all(&builder.skip_debug));
    config.disable_comments(all(&builder.stubs.disable_comments));
    for (proto_path, rust_path) in &builder.externs.paths {
        config.extern_path(proto_path, rust_path);
    }
    if builder.externs.compile_well_known_types {
        config.compile_well_known_types();
    }
    if builder.retain_enum_prefix {
        config.retain_enum_prefix();
    }
    if builder.enable_type_names {
        config.enable_type_names();
    }
    if let Some(path) = &builder.prost_path {
        config.prost_path(path);
    }
    if let Some(path) = &builder.prost_types_path {
        config.prost_types_path(path);
    }
    config
}

/// Attributes for the names in the `.proto` file and for those that replace them.
fn aliased<'a>(
    attributes: &'a Attributes,
    renames: &'a Renames,
) -> impl Iterator<Item = (String, &'a str)> {
    attributes.iter().flat_map(|(path, attribute)| {
        let paths = [path.to_owned()].into_iter().chain(renames.also_known_as(path));
        paths.map(move |path| (path, attribute)).collect::<Vec<_>>()
    })
}
