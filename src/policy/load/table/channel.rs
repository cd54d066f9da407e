//! The fields of `channel` blocks. *Pure.*

use super::{Field, Shape, Table};

const SLACK: &[&str] = &["slack"];
const EMAIL: &[&str] = &["email"];

pub(super) static CHANNEL: Table = Table {
    doc: "Where people are told of held actions: channel \"type\" \"name\" { … }, named by an approver's `channels`.",
    groups: &[&[
        Field::new(
            "token",
            Shape::Secret,
            "The bot's or user's token at the service.",
        )
        .of(&["slack", "ntfy"]),
        Field::new(
            "signing_secret",
            Shape::Secret,
            "By which Slack signs what it sends: the app's Basic Information.",
        )
        .of(SLACK),
        Field::new(
            "room",
            Shape::Text,
            "The ID of the conversation that is told, `C0123456789`.",
        )
        .of(SLACK),
        Field::new(
            "base_url",
            Shape::Text,
            "Where Slack's API is; Slack's own if not given.",
        )
        .of(SLACK),
        Field::new(
            "person",
            Shape::Block(&PERSON),
            "Somebody who may decide through it; nobody else may.",
        )
        .of(&["slack", "webhook"]),
        Field::new(
            "url",
            Shape::Text,
            "The URL that is told; for ntfy without the topic.",
        )
        .of(&["webhook", "ntfy"]),
        Field::new(
            "secret",
            Shape::Secret,
            "By which both ways are signed: `whsec_…`, or any bytes.",
        )
        .of(&["webhook"]),
        Field::new("topic", Shape::Text, "The topic that is published to.").of(&["ntfy"]),
        Field::new("server", Shape::Text, "The mail server, `smtp.example.com:587`.").of(EMAIL),
        Field::new(
            "tls",
            Shape::OneOf(&["starttls", "implicit"]),
            "How TLS begins, without which nothing is sent; starttls by default.",
        )
        .of(EMAIL),
        Field::new(
            "ca_cert",
            Shape::Text,
            "The roots that sign the server's certificate: PEM text, or file(\"ca.pem\").",
        )
        .of(EMAIL),
        Field::new(
            "username",
            Shape::Text,
            "The user who logs in to the mail server.",
        )
        .of(EMAIL),
        Field::new("password", Shape::Secret, "The user's password.").of(EMAIL),
        Field::new("from", Shape::Text, "The sender's address.").of(EMAIL),
        Field::new("to", Shape::Texts, "The addresses that are told.").of(EMAIL),
    ]],
};

static PERSON: Table = Table {
    doc: "Somebody who may decide through a channel, where the approver lets them.",
    groups: &[&[
        Field::new(
            "id",
            Shape::Text,
            "What the channel calls them: a Slack member's ID, the `person` of a webhook's answer.",
        ),
        Field::new(
            "name",
            Shape::Text,
            "Who they are: a login, or an account of the page.",
        ),
    ]],
};
