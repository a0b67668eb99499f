//! A transformer: puts a header field in front of every message.

wit_bindgen::generate!({ path: "wit", world: "transform-stage", generate_all });

use exports::posthaste::transformer::transformer::{Guest, StageError, Transformed, TransformerInput};

/// The field, with the CRLF that ends it.
const FIELD: &[u8] = b"X-Sent-By: @NAME@\r\n";

struct Component;

impl Guest for Component {
    fn transform(input: TransformerInput) -> Result<Transformed, StageError> {
        // The message is RFC 5322 with CRLF, and must be so afterwards. `None` leaves it as it is.
        let message = [FIELD, &input.message].concat();
        Ok(Transformed { message: Some(message), warnings: vec![], attributes: vec![] })
    }
}

export!(Component);
