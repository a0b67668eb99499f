//! The routes of the sending API that the host answers, in one table: what does not stand in it is not reached. So a test
//! that walks the table walks every route.

use http::Method;

/// A route: its method and its path, in which `{…}` stands for one segment.
pub struct Route {
    pub method: Method,
    pub path: &'static str,
}

const fn route(method: Method, path: &'static str) -> Route {
    Route { method, path }
}

/// All there are. `POST /emails`, `POST /emails/batch` and whatever else makes a message are the triggers' own: they come
/// here with a token, by the delivery API.
pub const ROUTES: &[Route] = &[
    route(Method::GET, "/emails"),
    route(Method::GET, "/emails/{id}"),
    route(Method::PATCH, "/emails/{id}"),
    route(Method::GET, "/emails/{id}/events"),
    route(Method::POST, "/emails/{id}/cancel"),
    route(Method::GET, "/events"),
    route(Method::GET, "/events/{event}"),
    route(Method::GET, "/domains"),
    route(Method::POST, "/domains"),
    route(Method::GET, "/domains/{domain}"),
    route(Method::PATCH, "/domains/{domain}"),
    route(Method::DELETE, "/domains/{domain}"),
    route(Method::POST, "/domains/{domain}/verify"),
    route(Method::GET, "/templates"),
    route(Method::POST, "/templates"),
    route(Method::GET, "/templates/{template}"),
    route(Method::PATCH, "/templates/{template}"),
    route(Method::DELETE, "/templates/{template}"),
    route(Method::POST, "/templates/{template}/publish"),
    route(Method::POST, "/templates/{template}/duplicate"),
    route(Method::GET, "/webhooks"),
    route(Method::POST, "/webhooks"),
    route(Method::GET, "/webhooks/{webhook}"),
    route(Method::PATCH, "/webhooks/{webhook}"),
    route(Method::DELETE, "/webhooks/{webhook}"),
    route(Method::POST, "/webhooks/{webhook}/rotate"),
    route(Method::POST, "/webhooks/{webhook}/signing-secret/rotate"),
    route(Method::POST, "/webhooks/{webhook}/test"),
    route(Method::POST, "/webhooks/{webhook}/replay"),
    route(Method::POST, "/webhooks/{webhook}/events/{event}/replay"),
    route(Method::GET, "/webhooks/{webhook}/attempts"),
];

/// What the table says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Route,
    /// There is such a path, but not with this method.
    OtherMethod,
    Nothing,
}

/// Looks a request up.
pub fn find(method: &Method, path: &str) -> Found {
    let mut found = Found::Nothing;
    for route in ROUTES.iter().filter(|route| fits(route.path, path)) {
        if route.method == *method {
            return Found::Route;
        }
        found = Found::OtherMethod;
    }
    found
}

fn fits(pattern: &str, path: &str) -> bool {
    let mut parts = path.trim_end_matches('/').split('/');
    let all = pattern.split('/').all(|wanted| {
        parts.next().is_some_and(|part| if wanted.starts_with('{') { !part.is_empty() } else { part == wanted })
    });
    all && parts.next().is_none()
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
