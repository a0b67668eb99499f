//! Every way in, over the inputs in `tests/fuzz/corpus/` and over changes of them that are the same each time. What
//! `cargo xtask fuzz` finds is put there under a name that says what it broke.

use std::fs;
use std::path::{Path, PathBuf};

mod targets;

/// Changed inputs for each one of the corpus.
const CHANGES: u64 = 150;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found: Vec<_> = files
        .filter_map(Result::ok)
        .map(|file| (file.path(), fs::read(file.path()).unwrap_or_else(|error| panic!("{:?}: {error}", file.path()))))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{} is empty", folder.display());
    found
}

/// Numbers that look random and are the same each time (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }

    /// An input with a few pieces cut out, doubled, overwritten, or taken from another one.
    fn change(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.roll(4) {
            let at = self.roll(bytes.len() + 1);
            let end = at + self.roll((bytes.len() - at + 1).min(30));
            let from = self.roll(other.len() + 1);
            let to = from + self.roll((other.len() - from + 1).min(30));
            match self.roll(5) {
                0 => drop(bytes.splice(at..end, [])),
                1 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
                2 => drop(bytes.splice(at..end, [self.roll(256) as u8])),
                _ => drop(bytes.splice(at..at, other[from..to].iter().copied())),
            }
        }
        bytes
    }
}

fn play(name: &str) {
    let found = targets::TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = found.unwrap_or_else(|| panic!("there is no target `{name}`"));
    let inputs = corpus(name);
    let run = |path: &Path, input: &[u8]| {
        if std::panic::catch_unwind(|| target(input)).is_err() {
            panic!("{} breaks on, from {}: {}", name, path.display(), input.escape_ascii());
        }
    };
    for (at, (path, input)) in inputs.iter().enumerate() {
        run(path, input);
        let mut dice = Dice(at as u64);
        for _ in 0..CHANGES {
            let other = &inputs[dice.roll(inputs.len())].1;
            run(path, &dice.change(input, other));
        }
    }
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            play(stringify!($name));
        })*

        #[test]
        fn each_target_has_its_test() {
            let names: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

tests!(address client config frames message record server submission template);
