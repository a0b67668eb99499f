//! Every section and key of the configuration file, once: the reader takes defaults and did-you-mean hints from this
//! table, and `docs/configuration.md` is printed from it.

/// One table of the file.
pub struct Section {
    /// `smtp`; empty for the keys at the top of the file; `*` stands for a name of the operator's choice.
    pub path: &'static str,
    /// Whether it is written `[[route]]` and may stand many times.
    pub repeats: bool,
    /// What it is for.
    pub doc: &'static str,
    pub keys: &'static [Key],
}

/// One key of a section.
pub struct Key {
    pub name: &'static str,
    /// What is to be written, for people.
    pub form: &'static str,
    /// The default as TOML, read by the same code as the file; absent where there is none.
    pub default: Option<&'static str>,
    /// Meaning, unit, and the effect of leaving it out.
    pub doc: &'static str,
}

const fn key(name: &'static str, form: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key { name, form, default: Some(default), doc }
}

/// A key without default: left out, it is simply absent (or, where the doc says so, demanded).
const fn bare(name: &'static str, form: &'static str, doc: &'static str) -> Key {
    Key { name, form, default: None, doc }
}

const fn section(path: &'static str, doc: &'static str, keys: &'static [Key]) -> Section {
    Section { path, repeats: false, doc, keys }
}

const ADDRESS: &str = "address:port";
const ADDRESSES: &str = "list of address:port";
const COUNT: &str = "number";
const DURATION: &str = "duration";
const FILE: &str = "path";
const SIZE: &str = "size";

const FILES: &str = "list of paths";

const HOSTS: &str = "list of hosts";

const STAGE_FILES: &[Key] = &[
    bare(
        "validator",
        FILES,
        "Checks each message before it is signed. Of several, each must accept it, in this order.",
    ),
    bare("renderer", FILE, "Renders templates to subject, HTML and text."),
    bare(
        "transformer",
        FILES,
        "Rewrites each message between validation and signing. Of several, each gets what the one before it made. Left out: messages pass unchanged.",
    ),
    bare(
        "signer",
        FILE,
        "Signs each message with DKIM. It never sees a private key: it asks the host to sign digests.",
    ),
    bare("shaper", FILE, "Shapes and signs the webhook of an event."),
];

pub const SECTIONS: &[Section] = &[
    section(
        "",
        "At the top of the file.",
        &[
            bare(
                "hostname",
                "domain name",
                "Demanded. The name this host calls itself in EHLO, greetings and `Received`. It should resolve to the address mail leaves from, and that address back to it.",
            ),
            bare(
                "data",
                FILE,
                "Demanded. Folder of queue, spool, keys, caches and the control socket; created where it lacks, and closed to other users (0700) at each start. One host at a time uses it.",
            ),
            bare(
                "master_key_file",
                FILE,
                "File with the key that seals secrets at rest. Left out: made on first start as `master.key` in the data folder; then whoever copies the folder has the key too.",
            ),
        ],
    ),
    section(
        "http",
        "The sending API without TLS, and `/healthz` and `/readyz`. Left out: no such listener.",
        &[bare("listen", ADDRESS, "Demanded in this section. Port 0 takes a free one.")],
    ),
    section(
        "https",
        "The same routes over TLS, with the pair of `[tls]`. Left out: no such listener.",
        &[bare("listen", ADDRESS, "Demanded in this section.")],
    ),
    section(
        "admin",
        "Control API by TCP, for operator keys (`posthaste key create --operator`) and the tenants' own. Left out: it is reached through the socket in the data folder only.",
        &[bare(
            "listen",
            ADDRESS,
            "Demanded in this section. A loopback address, since there is no TLS: put a proxy that speaks it in front.",
        )],
    ),
    section(
        "tls",
        "The certificate of `[https]` and of STARTTLS. Left out: a self-signed pair is made in the data folder, with a warning.",
        &[
            bare("cert", FILE, "Demanded in this section. PEM, the host's own certificate first, then the chain."),
            bare("key", FILE, "Demanded in this section. PEM, PKCS#8, PKCS#1 or SEC1."),
        ],
    ),
    section(
        "smtp",
        "Mail submission by SMTP.",
        &[
            key("listen", ADDRESSES, "[]", "Plain listeners that offer STARTTLS, usually on port 587 or 25."),
            key(
                "listen_tls",
                ADDRESSES,
                "[]",
                "Listeners with TLS from the first byte (RFC 8314), usually on port 465.",
            ),
            key(
                "trusted",
                "list of address blocks",
                "[]",
                "Peers that may relay without AUTH and with any From, such as `10.0.0.0/8`; unsigned where there is no key for it. All others need an API key as password: this is never an open relay.",
            ),
            key("max_connections", COUNT, "1000", "Connections at once; more are answered 421."),
            key(
                "max_connections_per_ip",
                COUNT,
                "100",
                "Connections at once from one address that is not trusted; more are answered 421.",
            ),
            key("idle_timeout", DURATION, "\"5m\"", "Wait for a command or a piece of data (RFC 5321 s4.5.3.2)."),
        ],
    ),
    section(
        "dns",
        "Name servers.",
        &[key("servers", ADDRESSES, "[]", "Asked instead of those of the system. Empty: the system's.")],
    ),
    section(
        "domains",
        "The DNS records of sending domains: what they lead to, and how often the host looks whether they are published. A development host does not look by itself.",
        &[
            key(
                "check_every",
                DURATION,
                "\"6h\"",
                "Between two looks at a domain whose records are all right; jittered by a tenth either way.",
            ),
            key(
                "check_pending_every",
                DURATION,
                "\"5m\"",
                "The same where a record is awaited or wrong. The longer nothing changes, the rarer are the looks, down to `check_every`.",
            ),
            bare(
                "return_path_target",
                "domain name",
                "Where `bounces.` below each sending domain is to be an alias (CNAME) of: a name where something of yours takes bounces. Left out: no such record is asked for, and bounces go to the sender's own domain.",
            ),
            bare(
                "tracking_target",
                "domain name",
                "The same for `links.`: a name where something of yours answers followed links. Left out: no such record is asked for.",
            ),
        ],
    ),
    section(
        "delivery",
        "Mail out.",
        &[
            key("port", "port", "25", "Port of MX hosts. Another one is for closed networks and tests."),
            key(
                "allow_private",
                "`true` or `false`",
                "false",
                "Whether mail may go to MX hosts and address literals on this machine or in private networks (loopback, link-local, multicast, RFC 1918, RFC 6598, unique local); else it bounces with 5.4.4, since a sender could reach the operator's own machines that way. Left out, it is `true` where `[dns] servers` names a loopback address: that is a closed network or a test. If that server is a resolver for the whole internet, write `false`. A `[[route]]` `relay` may stand anywhere. An address and port this host listens on itself never get mail (5.4.6).",
            ),
            key(
                "expire_after",
                DURATION,
                "\"5d\"",
                "From acceptance: what is undelivered then has failed (RFC 5321 s4.5.4.1).",
            ),
            key(
                "retry_delays",
                "list of durations",
                "[\"1m\", \"5m\", \"15m\", \"30m\", \"1h\", \"2h\", \"4h\"]",
                "Waits before the 2nd, 3rd, … attempt; the last one repeats. Each is jittered by a fifth either way.",
            ),
            key(
                "bounces",
                "`report` or `events`",
                "\"report\"",
                "How the sender of mail that came by SMTP is told of a failure where it did not say so itself (NOTIFY, RFC 3461): by a report to the return path, or by events and webhooks alone. Mail that came by HTTP is told by events alone, and the null sender never gets a report.",
            ),
            key(
                "report_delay_after",
                DURATION,
                "\"4h\"",
                "How long mail waits before a sender who asked for it (NOTIFY=DELAY) is told once that it does: with the first attempt after that.",
            ),
            key("connections_per_site", COUNT, "10", "Connections at once to one set of MX hosts or one relay."),
            key("connections", COUNT, "500", "Connections out in all."),
            key(
                "large_bodies",
                SIZE,
                "\"512MiB\"",
                "What the bodies above 64 KiB that are being sent may take of memory, all connections together. Where it is full such mail waits; smaller mail never does.",
            ),
            key(
                "messages_per_connection",
                COUNT,
                "100",
                "After so many messages a connection is closed and another opened.",
            ),
            key("idle_connection", DURATION, "\"5s\"", "How long an open connection waits for another message."),
            key(
                "sources",
                "list of names",
                "[]",
                "The `[[source]]` that mail leaves from: the first that the peer does not blame. Empty: the system chooses the address.",
            ),
        ],
    ),
    section(
        "delivery.timeouts",
        "How long a peer may take (RFC 5321 s4.5.3.2).",
        &[
            key("connect", DURATION, "\"30s\"", "To take the connection; then its next address is tried."),
            key("greeting", DURATION, "\"5m\"", "To greet."),
            key("command", DURATION, "\"5m\"", "To answer EHLO, STARTTLS, AUTH, MAIL and RCPT."),
            key("data_start", DURATION, "\"2m\"", "To answer DATA."),
            key("data_block", DURATION, "\"3m\"", "To take a block of the message."),
            key("data_end", DURATION, "\"10m\"", "To answer the final dot."),
        ],
    ),
    section(
        "webhooks",
        "How applications are told of events.",
        &[
            key(
                "allow_private",
                "`true` or `false`",
                "false",
                "Whether endpoints may stand on this machine or in private networks (loopback, link-local with the metadata services of clouds, RFC 1918, RFC 6598, unique local, and what leads there by NAT64 or 6to4); else they are refused, by address and after every look-up. A development host reaches loopback without it.",
            ),
            key(
                "concurrency",
                COUNT,
                "8",
                "Attempts at once for one endpoint, at most 64; one where the last got no answer.",
            ),
            key(
                "timeout",
                DURATION,
                "\"15s\"",
                "What an endpoint may take from the connection to the end of its answer; at most 50s.",
            ),
            key("keep_log", DURATION, "\"7d\"", "How long the log of attempts is kept."),
        ],
    ),
    section(
        "store",
        "What is kept on disk, in the data folder.",
        &[
            key(
                "reserve",
                SIZE,
                "\"256MiB\"",
                "Free disk space below which no mail is taken (452, 503), so that what was taken can be delivered. Below it, bodies that nobody waits for go at once; below twice of it, the oldest of them.",
            ),
            key(
                "keep_bodies",
                DURATION,
                "\"1d\"",
                "How long a body can be read after its last recipient is done with.",
            ),
            key(
                "keep_messages",
                DURATION,
                "\"30d\"",
                "How long a message and its events can be read from the same moment; at least `1d`, and at least `keep_bodies`. What a webhook is still to be told of stays.",
            ),
        ],
    ),
    Section {
        path: "route",
        repeats: true,
        doc: "Where mail for a domain goes. The first that fits is used; where none does, mail goes to the domain's MX hosts.",
        keys: &[
            bare(
                "domain",
                "domain",
                "Demanded. `example.com`, `*.example.com` for everything below it, or `*` for all.",
            ),
            bare(
                "relay",
                "host:port",
                "Hands the mail to this host instead of the MX hosts. An IPv6 address stands in brackets.",
            ),
            bare("port", "port", "Port of the MX hosts for this route; not together with `relay`."),
            key(
                "tls",
                "`off`, `opportunistic`, `require` or `verify`",
                "\"opportunistic\"",
                "`opportunistic` encrypts where offered, `require` encrypts or defers, `verify` demands a certificate that fits the host's name as well. With `auth` the default is `verify`, so that a password never goes out in the clear.",
            ),
            bare(
                "auth",
                "`{ username, password_file }` or `{ username, password_env }`",
                "Credentials for the relay. The password stands in a file (its end of line is not part of it) or an environment variable, never here.",
            ),
            bare("sources", "list of names", "The same as in `[delivery]`, for this route."),
            bare("retry_delays", "list of durations", "The same as in `[delivery]`, for this route."),
            bare("expire_after", DURATION, "The same as in `[delivery]`, for this route."),
        ],
    },
    Section {
        path: "source",
        repeats: true,
        doc: "An address that mail leaves from. Where a peer refuses mail because of the address it comes from, a list or its reputation, the next source of the route's `sources` is used there for an hour. A message that only waits for greylisting keeps its source.",
        keys: &[
            bare(
                "name",
                "name",
                "Demanded. Lower-case letters, digits, `-` and `_`, at most 64; for `sources` and the log.",
            ),
            bare(
                "addresses",
                "list of addresses",
                "Demanded. Addresses of this machine, one IPv4 and one IPv6 at most. Hosts that have only addresses of the other kind are not reached from here.",
            ),
            bare(
                "hostname",
                "domain name",
                "The name in EHLO. It should resolve to the addresses, and they back to it. Left out: the host's.",
            ),
            key("connections", COUNT, "100", "Connections at once from here; sites that find none free wait for one."),
            bare(
                "weight",
                COUNT,
                "Its share of a route's mail, in proportion to the `weight` of the route's other sources; a message and its retries keep to one source. Left out: the source is used only where those with a weight are blamed, and where none has one, the first of the route's `sources` is used.",
            ),
        ],
    },
    section("components", "WASM files that replace built-in stages, for all tenants.", STAGE_FILES),
    section(
        "components.always",
        "WASM files that run before the others for every tenant. No tenant's component replaces them.",
        &[
            bare("validator", FILES, "Each must accept every message, before the tenant's own validator sees it."),
            bare("transformer", FILES, "Each rewrites every message, before the tenant's own transformer gets it."),
        ],
    ),
    section(
        "tenant.*.components",
        "The same for one tenant, in front of those for all. What is pushed for the tenant (`posthaste component push`) goes before both. `default` is the tenant of keys made without `--tenant`.",
        STAGE_FILES,
    ),
    section(
        "tenant.*.grants",
        "Hosts that a tenant's stages may reach by HTTP, as `name` or `name:port`; none by default. What `posthaste component grant` says of a stage goes before it. Without a port: 443 by https, 80 by http.",
        &[
            bare("validator", HOSTS, "At most 32 for each stage."),
            bare("renderer", HOSTS, "The same."),
            bare("transformer", HOSTS, "The same."),
            bare("signer", HOSTS, "Such as a service that holds the keys."),
            bare("shaper", HOSTS, "The same."),
            key(
                "private",
                "`true` or `false`",
                "false",
                "Whether these hosts may stand on this machine or in private networks; else their addresses there are refused, after every look-up.",
            ),
        ],
    ),
    section(
        "limits",
        "What strangers and customers may take.",
        &[
            key("message_bytes", SIZE, "\"25MiB\"", "Size of one message, as composed or as sent by SMTP."),
            key("recipients", COUNT, "1000", "Recipients of one message."),
            key(
                "http_body_bytes",
                SIZE,
                "\"64MiB\"",
                "Bodies of HTTP requests held in memory, all requests together, and one more of the greatest size; more wait. While components work on a body of over 256 KiB it counts eight times, which is what it costs; the largest are worked on one after the other. At least twice `message_bytes`, and raised to that where it is left out.",
            ),
            key("http_requests", COUNT, "32", "HTTP requests inside components at once; more wait."),
            key(
                "http_connections",
                COUNT,
                "1024",
                "HTTP connections at once, for each of the listeners' groups (`[http]` with `[https]`, and `[admin]`); more are answered 503 with `Retry-After`. One address may have a quarter of them, this machine three quarters; more are answered 429.",
            ),
            bare(
                "memory_bytes",
                SIZE,
                "Resident memory of the process above which no new mail is taken: 452 by SMTP, 503 with `Retry-After` by HTTP; deliveries go on. Left out: nine tenths of what the machine or its control group has.",
            ),
            key(
                "drain",
                DURATION,
                "\"30s\"",
                "How long connections and transactions under way may take to finish when the host is told to end (SIGTERM). What is accepted is safe after it too, and tried again at the next start.",
            ),
        ],
    ),
    section(
        "stages",
        "How each call of a stage component is bounded. What goes over costs that one message a 451 or 503.",
        &[
            key("time", DURATION, "\"5s\"", "Computing time and wall clock of one call."),
            key("memory_bytes", SIZE, "\"128MiB\"", "Memory of one instance."),
            key("output_bytes", SIZE, "\"64MiB\"", "What one call may answer."),
            key("instances", COUNT, "4", "Instances kept and calls at once, for each tenant and stage."),
            key(
                "cpu_percent",
                COUNT,
                "25",
                "What the components of one tenant may compute on average over ten seconds, in percent of one core. Over it, its messages are deferred. Built-in components and those of `[components]` do not count.",
            ),
            key(
                "on_failure",
                "`defer`, `fallback` or `reject`",
                "\"defer\"",
                "What becomes of a message when the component of a stage traps, takes too long or answers nonsense: its sender is told to try again later, the built-in component answers instead, or the message is refused for good. Those in `[components.always]` and built-in ones always defer.",
            ),
            key("idle_instances", COUNT, "256", "Idle instances kept, all tenants together."),
            key("idle_bytes", SIZE, "\"512MiB\"", "Memory of idle instances, all tenants together."),
            key(
                "loaded",
                COUNT,
                "1000",
                "Pushed components kept in memory as machine code; those unused for longest are loaded again from the disk when they are called.",
            ),
            key("loaded_bytes", SIZE, "\"512MiB\"", "Their machine code, all together."),
        ],
    ),
    section(
        "edge",
        "An edge whose `notify` tells events to webhooks. Left out: the host does it itself.",
        &[
            bare(
                "notify_url",
                "URL",
                "Demanded in this section. The edge's origin, such as `https://edge.example.com`, with the path that it stands below where it does; events go to `/notify` behind it. There only the edge's own network rules bind the address that an event finally goes to.",
            ),
            bare(
                "notify_token_file",
                FILE,
                "File with the delivery token that the edge was given, as its only line. This or `notify_token_env` is demanded.",
            ),
            bare("notify_token_env", "variable", "The same as the name of an environment variable."),
        ],
    ),
    section(
        "telemetry",
        "An OpenTelemetry collector that is sent the spans of connections, messages and attempts, by OTLP over HTTP. Left out: no spans are made. Mail never waits for it: spans that it does not take are dropped.",
        &[
            bare(
                "otlp_endpoint",
                "URL",
                "Demanded in this section. Such as `http://127.0.0.1:4318`; `/v1/traces` is added where it has no path.",
            ),
            bare("otlp_headers_file", FILE, "File with header fields to be sent along, one `Name: value` a line."),
            bare("otlp_headers_env", "variable", "The same as the name of an environment variable."),
            key(
                "sample_ratio",
                "number",
                "1",
                "The part of all traces that is sent, from 0 to 1. A message and all attempts to deliver it are one trace, sent whole or not at all.",
            ),
        ],
    ),
];

/// Keys of `auth` in a route.
pub const AUTH_KEYS: &[&str] = &["username", "password_file", "password_env"];

/// The section of that path.
pub fn section_of(path: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.path == path)
}

/// The reference page `docs/configuration.md`.
pub fn reference_page() -> String {
    let mut page = String::from(PREFACE);
    for section in SECTIONS {
        let title = match (section.path, section.repeats) {
            ("", _) => "Top of the file".to_owned(),
            (path, true) => format!("`[[{path}]]`"),
            (path, false) => format!("`[{}]`", path.replace('*', "NAME")),
        };
        page.push_str(&format!(
            "\n## {title}\n\n{}\n\n| Key | Value | Default | Meaning |\n|---|---|---|---|\n",
            section.doc
        ));
        for key in section.keys {
            let default = key.default.map_or("–".to_owned(), |default| format!("`{default}`"));
            page.push_str(&format!("| `{}` | {} | {default} | {} |\n", key.name, key.form, key.doc));
        }
    }
    page
}

const PREFACE: &str = "# Configuration

One TOML file, read at start: `posthaste serve --config FILE`. Unknown keys are refused, and all faults are told at once,
each with its line. Only `hostname`, `data` and one listener are demanded. Secrets stand in files of their own or in
environment variables, never in this file.

A path is taken from the folder of the configuration file. A duration is a number with a unit: `500ms`, `30s`, `5m`, `4h`, `5d`.
A size is a number with a unit: `64KiB`, `25MiB`, `1GiB`, or `KB`, `MB`, `GB` for powers of ten; a bare number is bytes. A list of
one item may be written without brackets.

This page is printed from `host/src/config/schema.rs`.
";
