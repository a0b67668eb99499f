//! What a peer's answer to EHLO offers (RFC 5321 s4.1.1.1).

use mail::Reply;

/// The extensions we act on; all others are passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 3030.
    pub chunking: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtp_utf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 1870: offered, and the limit in octets where it names one.
    pub size: Option<Option<u64>>,
    /// RFC 4954.
    pub auth_plain: bool,
    pub auth_login: bool,
}

impl Capabilities {
    /// Reads the reply to EHLO; its first line is the peer's name and greeting.
    pub fn read(reply: &Reply) -> Capabilities {
        let mut offered = Capabilities::default();
        for line in reply.text.lines().skip(1) {
            let mut words = line.split_ascii_whitespace();
            match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
                "PIPELINING" => offered.pipelining = true,
                "CHUNKING" => offered.chunking = true,
                "8BITMIME" => offered.eight_bit_mime = true,
                "SMTPUTF8" => offered.smtp_utf8 = true,
                "DSN" => offered.dsn = true,
                "STARTTLS" => offered.starttls = true,
                // A limit of 0 means none (RFC 1870 s4).
                "SIZE" => offered.size = Some(words.next().and_then(|n| n.parse().ok()).filter(|&n| n > 0)),
                "AUTH" => offered.auth(words),
                // An old form from before RFC 2554; some relays still send it beside the other.
                first => {
                    if let Some(mechanism) = first.strip_prefix("AUTH=") {
                        offered.auth(std::iter::once(mechanism).chain(words));
                    }
                }
            }
        }
        offered
    }

    fn auth<'a>(&mut self, mechanisms: impl Iterator<Item = &'a str>) {
        for mechanism in mechanisms {
            self.auth_plain |= mechanism.eq_ignore_ascii_case("PLAIN");
            self.auth_login |= mechanism.eq_ignore_ascii_case("LOGIN");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Capabilities) {
        assert_eq!(Capabilities::read(&Reply::new(250, None, text)), expect);
    }

    #[test]
    fn capabilities() {
        let none = Capabilities::default;
        check("mx.example.net", none());
        check("PIPELINING", none());
        check("mx\nPIPELINING\n8bitmime", Capabilities { pipelining: true, eight_bit_mime: true, ..none() });
        check("mx\nChunking\nBINARYMIME", Capabilities { chunking: true, ..none() });
        check("mx\nDSN\nXDSN", Capabilities { dsn: true, ..none() });
        check("mx\nSIZE", Capabilities { size: Some(None), ..none() });
        check("mx\nSIZE 0", Capabilities { size: Some(None), ..none() });
        check("mx\nSIZE 1000", Capabilities { size: Some(Some(1000)), ..none() });
        check("mx\nSIZE much", Capabilities { size: Some(None), ..none() });
        check("mx\nAUTH PLAIN LOGIN X", Capabilities { auth_plain: true, auth_login: true, ..none() });
        check("mx\nAUTH=LOGIN CRAM-MD5", Capabilities { auth_login: true, ..none() });
        check("mx\nSTARTTLS\n\nSMTPUTF8", Capabilities { starttls: true, smtp_utf8: true, ..none() });
        check("mx\nXPIPELINING\nSTARTTLSX", none());
    }
}
