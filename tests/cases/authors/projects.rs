//! Projects that `posthaste component new` makes.

use std::path::{Path, PathBuf};

use tests::authors;
use tests::product::{binary, root};

use super::{build_javascript, build_python, build_rust, conforms, posthaste, workplace};

const STAGES: [&str; 5] = ["validator", "renderer", "transformer", "signer", "shaper"];

/// Makes a project of each of the stages, builds it with its language's plain command, and tests it.
fn projects(language: &str, build: fn(&Path) -> PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    for stage in STAGES {
        let folder = new(language, stage, parent.path());
        conforms(&build(&workplace(&folder, &format!("new-{language}-{stage}")).unwrap()), stage);
    }
}

/// A new project below a folder.
fn new(language: &str, stage: &str, parent: &Path) -> PathBuf {
    let folder = parent.join(format!("new-{language}-{stage}"));
    let path = folder.display().to_string();
    let said = posthaste(&["component", "new", "--lang", language, "--stage", stage, &path]).unwrap();
    assert!(said.contains("posthaste component test "), "{said}");
    folder
}

#[test]
fn new_rust_projects_build_and_conform() {
    projects("rust", build_rust);
}

/// One folder of packages serves all of them.
#[test]
fn new_javascript_projects_build_and_conform() {
    projects("javascript", build_javascript);
}

#[test]
fn new_python_projects_build_and_conform() {
    projects("python", build_python);
}

/// A project uses what lies in it and what registries have: the contract is copied in, whole, and nothing leads outside.
#[test]
fn new_projects_are_self_contained() {
    let parent = tempfile::tempdir().unwrap();
    for stage in STAGES {
        let rust: toml::Table = read(&new("rust", stage, parent.path()).join("Cargo.toml")).parse().unwrap();
        let crates = rust["dependencies"].as_table().unwrap();
        // A path or a repository would be a table.
        assert!(!crates.is_empty() && crates.values().all(toml::Value::is_str), "{crates:?}");
        let node = read(&new("javascript", stage, parent.path()).join("package.json"));
        let node: serde_json::Value = serde_json::from_str(&node).unwrap();
        let is_version = |version: &str| version.split('.').all(|number| number.parse::<u32>().is_ok());
        let packages = node["devDependencies"].as_object().unwrap();
        assert!(packages.values().all(|version| version.as_str().is_some_and(is_version)), "{packages:?}");
        assert!(node["dependencies"].is_null());
        let python = read(&new("python", stage, parent.path()).join("requirements.txt"));
        let mut packages = python.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        assert!(packages.all(|line| line.split_once("==").is_some_and(|(_, version)| is_version(version))), "{python}");
        let mut contracts = Vec::new();
        for language in ["rust", "javascript", "python"] {
            let wit = parent.path().join(format!("new-{language}-{stage}/wit"));
            assert_eq!(std::fs::read_dir(&wit).unwrap().count(), 1, "one file has all of the contract");
            let wit = read(&wit.join(format!("{stage}.wit")));
            for name in wit.split_whitespace().filter_map(|word| word.strip_prefix("posthaste:")) {
                let package = name.split(['/', '@']).next().unwrap();
                assert!(wit.contains(&format!("package posthaste:{package}@0.1.0")), "{language} {stage}: {name}");
            }
            contracts.push(wit);
        }
        assert!(contracts.iter().all(|wit| *wit == contracts[0]));
    }
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Exports, imports, size and digest of a file, what it gets for its imports, and the stage that it is.
#[test]
fn a_file_is_inspected() {
    for stage in STAGES {
        let file = kept(stage);
        let bytes = std::fs::read(&file).unwrap();
        let said = posthaste(&["component", "inspect", &file]).unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
        let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        for line in [
            format!("file     {file}"),
            format!("sha256   {digest}"),
            format!("size     {} bytes", bytes.len()),
            format!("exports  posthaste:{stage}/{stage}@0.1.0"),
            format!("stage    {stage}, contract 0.1.0: its types fit"),
        ] {
            assert!(said.lines().any(|found| found == line), "{line}: {said}");
        }
        // Imports are in order, the first one behind the word.
        let imports = said.lines().skip_while(|line| !line.starts_with("imports  ")).collect::<Vec<_>>();
        let of_keys = "         the tenant's DKIM keys: it signs with them and never sees them";
        let has_keys = imports.iter().any(|line| line[9..] == *"posthaste:keys/keys@0.1.0");
        let gets_keys = said.lines().any(|line| line.get(9..) == of_keys.get(9..));
        assert_eq!((has_keys, gets_keys), (stage == "signer", stage == "signer"), "{said}");
        assert!(imports.iter().any(|line| line[9..] == *"posthaste:types/types@0.1.0"), "{said}");
    }
}

fn kept(stage: &str) -> String {
    root().join(format!("tests/vectors/components/{stage}-0.1.0.wasm")).display().to_string()
}

/// A component that does not stand its cases: each is named with what is wrong, and the exit code says so.
#[test]
fn a_component_that_fails_is_told_case_by_case() {
    // Enough for all but the largest event.
    let words = ["component", "test", &kept("shaper"), "--memory-mib", "2"];
    let output = std::process::Command::new(binary().unwrap()).args(words).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let failed: Vec<&str> = said.lines().filter(|line| line.contains("  FAIL: ")).collect();
    let [failed] = failed.as_slice() else { panic!("{said}") };
    assert!(failed.starts_with("a MiB of subject "), "{said}");
    assert!(failed.contains("it asked for more than 2097152 bytes of memory"), "{said}");
    assert!(why.contains("1 of 11 cases failed"), "{why}");
    assert!(!said.contains("cases passed"), "{said}");
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
    let kept = kept("validator");
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
