//! Lets only this application's own pages change anything, and lets the pages load nothing from elsewhere.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// The hosts by which a browser on this machine reaches the application. Another name that leads here belongs to a page
/// elsewhere (DNS rebinding).
const HOSTS: [&str; 2] = ["127.0.0.1", "localhost"];

const HEADERS: [(header::HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; \
         form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Refuses requests from elsewhere; adds headers to all answers.
pub async fn guard(request: Request, next: Next) -> Response {
    let mut response = match verdict(request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(reason) => (StatusCode::FORBIDDEN, reason).into_response(),
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn verdict(method: &Method, headers: &HeaderMap) -> Result<(), &'static str> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    if !HOSTS.contains(&host.split(':').next().unwrap_or_default()) {
        return Err("This bank is open on 127.0.0.1 only.\n");
    }
    if method.is_safe() {
        return Ok(());
    }
    // Browsers say where a form comes from, and pages cannot change these headers.
    let is_own = text(header::ORIGIN).is_some_and(|origin| origin == format!("http://{host}"));
    if is_own { Ok(()) } else { Err("Changes are made by the forms of this bank only.\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(method: Method, headers: &[(&'static str, &'static str)]) -> bool {
        let headers = headers
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)));
        verdict(&method, &headers.collect()).is_ok()
    }

    #[test]
    fn forms_of_other_origins_are_refused() {
        let host = ("host", "127.0.0.1:8080");
        assert!(judge(Method::GET, &[host]));
        assert!(judge(Method::POST, &[host, ("origin", "http://127.0.0.1:8080")]));
        for origin in ["http://127.0.0.1:8081", "http://localhost:8080", "https://127.0.0.1:8080", "null", ""]
        {
            assert!(!judge(Method::POST, &[host, ("origin", origin)]), "{origin}");
        }
        assert!(!judge(Method::POST, &[host]));
    }

    #[test]
    fn other_names_for_this_host_are_refused() {
        assert!(!judge(Method::GET, &[("host", "bank.example:8080")]));
        assert!(!judge(Method::POST, &[("host", "bank.example"), ("origin", "http://bank.example")]));
        assert!(!judge(Method::GET, &[]));
    }
}
