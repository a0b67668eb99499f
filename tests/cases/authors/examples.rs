//! The projects of `examples/`: built, tested, pushed into a running host, and seen at work there.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tests::fake_mx::{Received, Step, reply};
use tests::http;
use tests::product::{Product, Setup};
use tests::receiver::Receiver;
use tests::world::World;

use super::judge::{Fate, Keys, judged};
use super::key_service::{KeyService, SELECTOR};
use super::{build_javascript, build_python, build_rust, build_rust_with, conforms, example};

/// Mail arrives within this.
const LIMIT: Duration = Duration::from_secs(60);

/// A host at work, and the world that it delivers to.
struct Running {
    product: Product,
    setup: Setup,
    world: World,
    key: String,
}

impl Running {
    fn start() -> Running {
        let world = World::start();
        let setup = Setup::new().unwrap().dns(world.dns()).delivery(&format!("port = {}", world.mx_port()));
        let setup = setup.with("[webhooks]\nallow_private = true");
        setup.command(&["domain", "add", "src.test"]).unwrap();
        let key = setup.create_key().unwrap();
        let product = setup.start().unwrap();
        // What the host compiles at its start takes the time of the components that are pushed.
        product.settled().unwrap();
        Running { product, setup, world, key }
    }

    /// The file answers for the tenant from now on.
    fn push(&self, stage: &str, file: &Path) {
        let file = file.display().to_string();
        let words = ["component", "push", "--tenant", "default", "--stage", stage, &file];
        let said = self.setup.command(&words).unwrap();
        assert!(said.starts_with(&format!("{stage} version 1 (")) && said.contains("is active, "), "{said}");
    }

    /// Sends a message that differs from an ordinary one by these members; null leaves one out.
    fn send(&self, change: Value) -> (u16, String) {
        let mut body = json!({ "from": "ann@src.test", "to": "bob@dst.test", "subject": "Hello", "text": "It works." });
        for (name, value) in change.as_object().unwrap() {
            match value.is_null() {
                true => drop(body.as_object_mut().unwrap().remove(name)),
                false => body[name] = value.clone(),
            }
        }
        let answer = http::post(self.product.http, "/emails", &self.key, &body).unwrap();
        (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// The message with these words in it, once it is delivered.
    fn received(&self, words: &str) -> Received {
        let has = |message: &Received| message.text().contains(words);
        self.world.wait_until(LIMIT, |messages| match messages.iter().any(has) {
            true => Ok(()),
            false => Err(format!("{words:?} is not in {:#?}", messages.iter().map(Received::text).collect::<Vec<_>>())),
        });
        self.world.received().into_iter().find(has).unwrap()
    }
}

#[test]
fn attachments_are_refused_by_rule() {
    let file = build_rust(&example("attachment-rules"));
    let said = conforms(&file, "validator");
    assert!(said.contains("is a program"), "{said}");
    let running = Running::start();
    let attached = |name: &str| json!({ "attachments": [{ "filename": name, "content": "eA==" }] });
    assert_eq!(running.send(attached("before.exe")).0, 200, "the built-in validator takes programs");
    running.push("validator", &file);
    let (status, text) = running.send(attached("report.pdf.exe"));
    assert!(status == 403 && text.contains("report.pdf.exe") && text.contains("is a program"), "{status} {text}");
    let (status, text) = running.send(attached("report.pdf"));
    assert_eq!(status, 200, "{text}");
    running.received("report.pdf");
}

#[test]
fn addresses_are_refused_by_rule() {
    let file = build_javascript(&example("company-addresses"));
    conforms(&file, "validator");
    let running = Running::start();
    running.push("validator", &file);
    let (status, text) = running.send(json!({ "to": "bob@gmial.com" }));
    assert!(status == 422 && text.contains("is gmail.com meant?"), "{status} {text}");
    let (status, text) = running.send(json!({ "from": "noreply@src.test" }));
    assert!(status == 403 && text.contains("must come from an address that is read"), "{status} {text}");
    let (status, text) = running.send(json!({}));
    assert_eq!(status, 200, "{text}");
    running.received("It works.");
}

#[test]
fn pages_are_rendered_in_python() {
    let file = build_python(&example("string-renderer"));
    conforms(&file, "renderer");
    let running = Running::start();
    running.push("renderer", &file);
    let template = |html: &str| {
        json!({ "subject": null, "text": null, "template": {
            "subject": "Hi $name", "html": html, "variables": { "name": "Ada <Countess>" } } })
    };
    let (status, text) = running.send(template("<p>Hello $nobody</p>"));
    assert!(status == 422 && text.contains("the variable `nobody` is missing"), "{status} {text}");
    let (status, text) = running.send(template("<p>Hello ${name}, it costs $$ 5</p>"));
    assert_eq!(status, 200, "{text}");
    let message = running.received("<p>Hello Ada &lt;Countess&gt;, it costs $ 5</p>").text();
    assert!(message.contains("Subject: Hi Ada <Countess>\r\n"), "{message}");
}

/// Without a grant nothing is reached, nothing traps, and mail is deferred.
#[test]
fn keys_of_an_outside_service_sign() {
    let folder = example("key-service");
    let said = conforms(&build_rust(&folder), "signer");
    assert!(said.contains("unavailable: http://keys.example.com/keys/example.com: "), "{said}");
    assert!(said.contains("Does it need a grant"), "{said}");

    let service = KeyService::start("src.test");
    let file = build_rust_with(&folder, &[("KEY_SERVICE", &format!("http://{}", service.host()))]);
    let running = Running::start();
    running.push("signer", &file);
    let (status, text) = running.send(json!({}));
    assert_eq!(status, 503, "{text}");
    let host = service.host();
    let grant = ["component", "grant", "--tenant", "default", "--stage", "signer", "--http", &host, "--private"];
    let said = running.setup.command(&grant).unwrap();
    assert!(said.contains(&format!("may reach: {host} ")), "{said}");
    let (status, text) = running.send(json!({ "text": "Signed far away." }));
    assert_eq!(status, 200, "{text}");
    let message = running.received("Signed far away.");
    let mut keys = Keys::default();
    keys.publish(&format!("{SELECTOR}._domainkey.src.test"), service.record());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(judged(&message.body, &keys)), [Fate::Pass], "{}", message.text());
}

#[test]
fn a_bounce_is_told_to_slack() {
    let file = build_rust(&example("slack-shaper"));
    let said = conforms(&file, "shaper");
    assert!(said.contains("email.delivered is not told to the channel"), "{said}");
    let running = Running::start();
    running.push("shaper", &file);
    let slack = Receiver::start().unwrap();
    let hook = json!({ "endpoint": slack.url(), "events": ["email.delivered", "email.bounced"] });
    let answer = http::post(running.product.http, "/webhooks", &running.key, &hook).unwrap();
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    running.world.mx().on(Step::Rcpt("gone@dst.test"), reply("550 5.1.1 <gone@dst.test> is unknown"));
    assert_eq!(running.send(json!({ "text": "Good news." })).0, 200);
    running.received("Good news.");
    assert_eq!(running.send(json!({ "to": "gone@dst.test", "subject": "Order & bill" })).0, 200);
    let told = slack.wait_for(1).remove(0);
    let text = told.json()["text"].as_str().unwrap_or_default().to_owned();
    assert!(text.starts_with("*:warning: Mail to gone@dst.test bounced*\nSubject: Order &amp; bill\n"), "{text}");
    assert!(text.contains("&lt;gone@dst.test&gt; is unknown"), "{text}");
    assert_eq!(told.json()["unfurl_links"], json!(false));
}
