//! A person in front of `/inbox`: headless Chromium on a development host.

use serde_json::json;
use tests::product::Setup;

use crate::scripts;

#[test]
fn chromium_shows_the_inbox() {
    let setup = Setup::new().unwrap();
    let product = setup.start_development("ph_browser").unwrap();
    let chromium = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    let chromium = chromium.into_iter().find(|path| std::path::Path::new(path).exists()).unwrap_or_else(|| {
        let why = std::env::var("POSTHASTE_INTEROP_MISSING").unwrap_or_default();
        panic!("there is no Chromium: `cargo xtask test` installs it where it may. {why}")
    });
    let job = json!({ "base": format!("http://{}", product.http), "key": "ph_browser", "chromium": chromium });
    scripts::node("browser", &job).unwrap();
}
