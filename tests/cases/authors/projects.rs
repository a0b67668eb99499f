//! Projects that `posthaste component new` makes.

use std::path::{Path, PathBuf};

use tests::authors;
use tests::product::root;

use super::{build_javascript, build_python, build_rust, conforms, posthaste, workplace};

const STAGES: [&str; 5] = ["validator", "renderer", "transformer", "signer", "shaper"];

/// Makes a project of each of the stages, builds it and tests it.
fn projects(language: &str, stages: &[&str], build: fn(&Path) -> PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    for stage in stages {
        let folder = parent.path().join(format!("new-{language}-{stage}"));
        let path = folder.display().to_string();
        let said = posthaste(&["component", "new", "--lang", language, "--stage", stage, &path]).unwrap();
        assert!(said.contains("posthaste component test "), "{said}");
        let file = build(&workplace(&folder, &format!("new-{language}-{stage}")).unwrap());
        conforms(&file, stage);
        let said = posthaste(&["component", "inspect", &file.display().to_string()]).unwrap();
        assert!(said.contains(&format!("stage    {stage}, contract 0.1.0: its types fit")), "{said}");
    }
}

#[test]
fn new_rust_projects_build_and_conform() {
    projects("rust", &STAGES, build_rust);
}

/// Whole language runtimes take long to compile: those of the stages that differ most.
#[test]
fn new_javascript_projects_build_and_conform() {
    projects("javascript", &["validator", "signer"], build_javascript);
}

/// An author reads why a call failed, and where the source is no JavaScript.
#[test]
fn faults_of_javascript_are_told() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("throwing");
    let path = folder.display().to_string();
    posthaste(&["component", "new", "--lang", "javascript", "--stage", "validator", &path]).unwrap();
    let source = folder.join("src/validator.js");
    let good = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, good.replace("  validate(input) {", "  validate(input) {\n    input.nothing.here;"))
        .unwrap();
    let file = build_javascript(&workplace(&folder, "throwing").unwrap());
    let error = posthaste(&["component", "test", &file.display().to_string()]).unwrap_err().to_string();
    assert!(error.contains("can't access property \"here\""), "{error}");

    std::fs::write(&source, format!("{good}\nimport (((")).unwrap();
    let error = authors::build_javascript(&workplace(&folder, "throwing").unwrap()).unwrap_err().to_string();
    assert!(error.contains("src/validator.js:") && error.contains("SyntaxError"), "{error}");
}

#[test]
fn new_python_projects_build_and_conform() {
    projects("python", &["signer"], build_python);
}

/// A file that is no component, and one of another stage, are told in words and by the exit code.
#[test]
fn wrong_files_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.wasm");
    std::fs::write(&file, "this is text").unwrap();
    let path = file.display().to_string();
    for verb in ["test", "inspect"] {
        let error = posthaste(&["component", verb, &path]).unwrap_err().to_string();
        assert!(error.contains("text.wasm: is not a WASM component"), "{error}");
    }
    let kept = root().join("tests/vectors/components/validator-0.1.0.wasm").display().to_string();
    let error = posthaste(&["component", "test", &kept, "--stage", "signer"]).unwrap_err().to_string();
    assert!(error.contains("does not export `posthaste:signer/signer@0.1.0`"), "{error}");
    conforms(Path::new(&kept), "validator");
}

/// The contract in an example is the one that a new project gets.
#[test]
fn examples_have_the_contract() {
    let parent = tempfile::tempdir().unwrap();
    for (name, stage) in [
        ("attachment-rules", "validator"),
        ("company-addresses", "validator"),
        ("string-renderer", "renderer"),
        ("key-service", "signer"),
        ("slack-shaper", "shaper"),
    ] {
        let folder = parent.path().join(name);
        let path = folder.display().to_string();
        posthaste(&["component", "new", "--lang", "rust", "--stage", stage, &path]).unwrap();
        let file = format!("wit/{stage}.wit");
        let expect = std::fs::read_to_string(folder.join(&file)).unwrap();
        let found = std::fs::read_to_string(root().join("examples").join(name).join(&file)).unwrap();
        assert!(found == expect, "examples/{name}/{file} is not the contract: copy it from a new project");
    }
}
