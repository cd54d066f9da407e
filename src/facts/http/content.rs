//! What a body says, in each of the ways in which a rule may read it. *Pure.*

use http::request::Parts;

use super::{HeldBody, body, form, json};
use crate::facts::json::Document;
use crate::facts::{Blind, Fact, FactSet, Slot};

/// Facts whose reading needs the body.
const OF_THE_BODY: &[Slot] = &[
    Slot::HttpBody,
    Slot::HttpBodyJson,
    Slot::HttpForm,
    Slot::HttpMultipart,
    Slot::HttpGraphqlOperation,
    Slot::HttpGraphqlKind,
    Slot::HttpGraphqlFields,
    Slot::HttpGraphqlPaths,
];

/// Facts of the GraphQL operation.
const OF_GRAPHQL: &[Slot] = &[
    Slot::HttpGraphqlOperation,
    Slot::HttpGraphqlKind,
    Slot::HttpGraphqlFields,
    Slot::HttpGraphqlPaths,
];

pub(super) fn wants_body(needs: FactSet) -> bool {
    OF_THE_BODY.iter().any(|slot| needs.contains(*slot))
}

pub(super) fn wants_graphql(needs: FactSet) -> bool {
    OF_GRAPHQL.iter().any(|slot| needs.contains(*slot))
}

/// A body, each reading only if it is needed.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    /// `None` where there is no body.
    pub(crate) text: Fact<Option<String>>,
    pub(crate) json: Fact<Document>,
    pub(crate) form: Fact<Vec<(String, Vec<String>)>>,
    /// The names of a multipart form's parts.
    pub(crate) parts: Fact<Vec<String>>,
}

impl Content {
    fn unknown(blind: Blind) -> Content {
        Content {
            text: Fact::Unknown(blind),
            json: Fact::Unknown(blind),
            form: Fact::Unknown(blind),
            parts: Fact::Unknown(blind),
        }
    }

    pub(crate) fn read(
        parts: &Parts,
        held: HeldBody<'_>,
        needs: FactSet,
        decoded_bytes_max: usize,
    ) -> Content {
        let graphql = wants_graphql(needs);
        let wants = |slots: &[Slot]| graphql || slots.iter().any(|slot| needs.contains(*slot));
        if !wants_body(needs) && !needs.contains(Slot::K8sBodyJson) {
            return Content::unknown(Blind::NotRead);
        }
        let sent = match held {
            HeldBody::Empty => {
                return Content {
                    text: Fact::Known(None),
                    json: Fact::Known(Document::default()),
                    form: Fact::Known(Vec::new()),
                    parts: Fact::Known(Vec::new()),
                };
            }
            HeldBody::Over => return Content::unknown(Blind::Truncated),
            HeldBody::NotHeld => return Content::unknown(Blind::NotRead),
            HeldBody::Whole(bytes) => bytes,
        };
        let decoded = match body::decode(&parts.headers, sent, decoded_bytes_max) {
            Ok(decoded) => decoded,
            Err(blind) => return Content::unknown(blind),
        };
        let mut out = Content::unknown(Blind::NotRead);
        if wants(&[Slot::HttpBody]) {
            out.text = match body::text(&parts.headers, &decoded) {
                Ok(text) => Fact::Known(Some(text.to_owned())),
                Err(blind) => Fact::Unknown(blind),
            };
        }
        if wants(&[Slot::HttpBodyJson, Slot::K8sBodyJson]) {
            out.json = json::read(&parts.headers, &decoded);
        }
        if wants(&[Slot::HttpForm]) {
            out.form = form::fields(&parts.headers, &decoded);
        }
        if wants(&[Slot::HttpMultipart]) {
            out.parts = form::part_names(&parts.headers, &decoded);
        }
        out
    }
}
