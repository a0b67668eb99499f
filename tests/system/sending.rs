//! The wider sending API over the whole system: scheduled mail and kills, domains of a tenant's own, files from the web.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::{Value, json};
use tests::http::{self, Answer};
use tests::product::{Product, Setup};
use tests::world::World;

const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);

fn mail(fields: Value) -> Value {
    let mut mail = json!({ "from": "a@src.test", "to": "b@dst.test", "subject": "Hi", "text": "x" });
    if let (Some(mail), Some(fields)) = (mail.as_object_mut(), fields.as_object()) {
        mail.extend(fields.clone());
    }
    mail
}

fn ask(product: &Product, key: &str, method: &str, path: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    http::request(product.http, method, path, &headers, body.as_bytes()).unwrap()
}

/// Sends one message and gives its id.
fn send(product: &Product, key: &str, fields: Value) -> String {
    let answer = ask(product, key, "POST", "/emails", &mail(fields));
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    answer.json().unwrap()["id"].as_str().unwrap().to_owned()
}

fn events(product: &Product, key: &str, id: &str) -> Vec<String> {
    let answer = ask(product, key, "GET", &format!("/emails/{id}/events"), &Value::Null).json().unwrap();
    answer["data"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

fn arrived(world: &World, count: usize) {
    world.wait_until(ARRIVAL_LIMIT, |received| match received.len() {
        there if there >= count => Ok(()),
        there => Err(format!("{there} of {count} messages arrived")),
    });
}

#[test]
fn scheduled_mail_survives_a_kill_and_goes_out_once() {
    let world = World::start();
    let setup = Setup::new().unwrap().dns(world.dns()).delivery(&format!("port = {}", world.mx_port()));
    setup.command(&["domain", "add", "src.test"]).unwrap();
    let key = setup.create_key().unwrap();
    let product = setup.start().unwrap();
    let canceled = send(&product, &key, json!({ "subject": "canceled", "scheduled_at": "in 1 hour" }));
    let moved = send(&product, &key, json!({ "subject": "moved", "scheduled_at": "in 1 hour" }));
    let soon = send(&product, &key, json!({ "subject": "soon", "scheduled_at": "in 1 hour" }));
    assert_eq!(ask(&product, &key, "POST", &format!("/emails/{canceled}/cancel"), &Value::Null).status, 200);
    let status = setup.command(&["status"]).unwrap();
    assert!(status.contains("2 recipients wait"), "{status}");
    let queue = setup.command(&["queue", "list"]).unwrap();
    assert!(queue.contains(&moved) && queue.contains("scheduled") && !queue.contains(&canceled), "{queue}");
    product.kill();

    let product = setup.start().unwrap();
    for id in [&moved, &soon] {
        let to = json!({ "scheduled_at": "in 1 second" });
        assert_eq!(ask(&product, &key, "PATCH", &format!("/emails/{id}"), &to).status, 200);
    }
    arrived(&world, 2);
    let product = {
        product.kill();
        setup.start().unwrap()
    };
    // Behind one that is sent now, whatever else was due has gone out too.
    send(&product, &key, json!({ "subject": "last" }));
    world.wait_until(ARRIVAL_LIMIT, |received| {
        let is_there = received.iter().any(|mail| String::from_utf8_lossy(&mail.body).contains("Subject: last"));
        if is_there { Ok(()) } else { Err("the last has not arrived".to_owned()) }
    });
    assert_eq!(events(&product, &key, &canceled), ["email.scheduled", "email.canceled"]);
    for id in [&soon, &moved] {
        // A kill behind an arrival may have it repeated; what was told is never told again.
        world.wait_until(ARRIVAL_LIMIT, |_| match events(&product, &key, id).as_slice() {
            [scheduled, sent, delivered] => {
                assert_eq!([scheduled, sent, delivered], ["email.scheduled", "email.sent", "email.delivered"]);
                Ok(())
            }
            fewer => Err(format!("{fewer:?}")),
        });
    }
    let bodies: Vec<String> =
        world.received().iter().map(|it| String::from_utf8_lossy(&it.body).into_owned()).collect();
    assert!(!bodies.iter().any(|body| body.contains("Subject: canceled")));
    let answer = ask(&product, &key, "POST", &format!("/emails/{soon}/cancel"), &Value::Null);
    assert_eq!(answer.status, 422);
}

#[test]
fn a_tenants_own_domain_sends_once_its_records_are_found() {
    let world = World::start();
    let setup = Setup::new().unwrap().dns(world.dns()).delivery(&format!("port = {}", world.mx_port()));
    let key = setup.create_key().unwrap();
    let product = setup.start().unwrap();
    let made = ask(&product, &key, "POST", "/domains", &json!({ "name": "own.test" }));
    assert_eq!(made.status, 201);
    let made = made.json().unwrap();
    let list = setup.command(&["domain", "list"]).unwrap();
    assert!(list.contains("own.test") && list.contains("not verified"), "{list}");
    let from = json!({ "from": "a@own.test" });
    let refused = ask(&product, &key, "POST", "/emails", &mail(from.clone()));
    let words = refused.json().unwrap()["message"].as_str().unwrap().to_owned();
    let records: Vec<&Value> =
        made["records"].as_array().unwrap().iter().filter(|record| record["record"] == "DKIM").collect();
    assert!(refused.status == 403 && words.contains(records[0]["name"].as_str().unwrap()), "{words}");

    for record in &records {
        let value = record["value"].as_str().unwrap();
        let (one, two) = value.split_at(value.len().min(255));
        world.publish(&format!("{} TXT \"{one}\" \"{two}\"\n", record["name"].as_str().unwrap()));
    }
    let path = format!("/domains/{}/verify", made["id"].as_str().unwrap());
    let verified = ask(&product, &key, "POST", &path, &Value::Null).json().unwrap();
    assert_eq!(verified["status"], "verified", "{verified}");
    send(&product, &key, from);
    arrived(&world, 1);
    let body = String::from_utf8_lossy(&world.received()[0].body).into_owned();
    assert!(body.contains("d=own.test"), "{body}");
    let list = setup.command(&["domain", "list"]).unwrap();
    assert!(list.contains("sends"), "{list}");
}

/// A web server that gives one answer to whoever comes; it ends with the test's process.
fn web_server(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

#[test]
fn attachments_come_from_the_web() {
    let setup = Setup::new().unwrap();
    let key = "ph_development";
    let product = setup.start_development(key).unwrap();
    let file = web_server(
        "HTTP/1.1 200 OK\r\ncontent-type: application/pdf\r\ncontent-length: 8\r\nconnection: close\r\n\r\n%PDF-1.7",
    );
    let elsewhere =
        web_server("HTTP/1.1 302 Found\r\nlocation: http://x.test/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let attached = |url: String| json!({ "attachments": [{ "path": url }] });
    let id = send(&product, key, attached(format!("http://{file}/files/report%202.pdf?x=1")));
    let source = http::get(product.http, &format!("/inbox/{id}/source"), &[]).unwrap();
    let source = String::from_utf8_lossy(&source.body).into_owned();
    assert!(source.contains("application/pdf") && source.contains("report 2.pdf"), "{source}");
    assert!(source.contains("JVBERi0xLjc="), "{source}");
    let refused = |url: String, words: &str| {
        let answer = ask(&product, key, "POST", "/emails", &mail(attached(url)));
        let text = answer.json().unwrap()["message"].as_str().unwrap().to_owned();
        assert!(answer.status == 422 && text.contains("`attachments[0].path`") && text.contains(words), "{text}");
    };
    refused(format!("http://{elsewhere}/"), "answered 302: redirects are not followed");
    refused("http://10.0.0.1/x".to_owned(), "private network");
    refused("http://[::ffff:169.254.169.254]/latest".to_owned(), "private network");
    refused("http://127.0.0.1:1/".to_owned(), "cannot be fetched");
}
