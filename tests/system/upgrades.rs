//! The binary on data folders that older versions left behind: their mail goes out.
//!
//! `tests/vectors/schema/N/` is a folder of schema N; `host/src/store/tests/versions.rs` says how one is made.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use tests::product::{Setup, root};
use tests::world::World;

const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);

/// The first schema that has scheduled mail: one more message waits.
const WITH_SCHEDULE: usize = 4;

fn folders() -> Vec<(usize, PathBuf)> {
    let read = fs::read_dir(root().join("tests/vectors/schema")).unwrap();
    let number = |path: &Path| path.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let mut found: Vec<(usize, PathBuf)> =
        read.map(|entry| entry.unwrap().path()).map(|it| (number(&it), it)).collect();
    found.sort();
    found
}

/// Makes the data folder that a host of that schema left.
fn lay_out(kept: &Path, data: &Path) {
    fs::create_dir_all(data.join("spool")).unwrap();
    fs::copy(kept.join("0000000001.seg"), data.join("spool/0000000001.seg")).unwrap();
    for name in ["store", "events"] {
        let database = Connection::open(data.join(format!("{name}.db"))).unwrap();
        database.execute_batch(&fs::read_to_string(kept.join(format!("{name}.sql"))).unwrap()).unwrap();
    }
}

#[test]
fn mail_that_older_versions_queued_is_delivered() {
    let folders = folders();
    assert!(folders.len() >= WITH_SCHEDULE, "{folders:?}");
    for (version, kept) in folders {
        let world = World::start();
        world.publish("a.test MX 10 mx.dst.test\n");
        let setup = Setup::new().unwrap().dns(world.dns()).delivery(&format!("port = {}", world.mx_port()));
        lay_out(&kept, &setup.folder().join("data"));
        let product = setup.start().unwrap();
        let old = 1 + usize::from(version >= WITH_SCHEDULE);
        world.wait_until(ARRIVAL_LIMIT, |received| match received.len() {
            there if there >= old => Ok(()),
            there => Err(format!("schema {version}: {there} of {old} messages arrived\n{}", product.log())),
        });
        let mut bodies: Vec<String> = world.received().iter().map(|mail| mail.text()).collect();
        bodies.sort();
        // The second was delivered before.
        let expect = ["Subject: 1\r\n\r\nbody 1\r\n", "Subject: 3\r\n\r\nbody 3\r\n"];
        assert_eq!(bodies, expect[..old], "schema {version}");
        product.stop().unwrap();
        let list = setup.command(&["queue", "list"]).unwrap();
        assert!(!list.contains("a.test"), "schema {version}: {list}");
    }
}
