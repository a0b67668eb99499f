//! The whole system, as a process.
use tests::postfix::*;
#[test]
fn tmp() {
    let d = tempfile::tempdir().unwrap();
    let p = Postfix::start(d.path(), &Role::Receiver { domain: "postfix.test", local_parts: &["box"] }).unwrap();
    let mut c = tests::smtp::Client::greeted(([127, 0, 0, 1], p.port).into()).unwrap();
    println!("{:?}", c.submit("a@b.test", "box@postfix.test", b"From: a@b.test\r\nSubject: x\r\n\r\nhi\r\n").unwrap());
    for _ in 0..100 {
        if let Some(m) = p.mailbox("box").unwrap().first() {
            println!("{}", String::from_utf8_lossy(m));
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    println!("{}", p.log());
    let d2 = tempfile::tempdir().unwrap();
    let p = Postfix::start(d2.path(), &Role::Relay { sink: 25, connections: 20 }).unwrap();
    println!("{} {}", p.pid, p.log());
}
