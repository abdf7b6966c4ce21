//! The page on the loopback port: everything that `status` says, as one document without scripts that the keyboard can
//! walk through. Pure; looking again is a link, so that nothing moves under a reader.
use super::StatusView;
use crate::status;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode};
use std::fmt::{self, Write as _};

/// What the page may load: its own style and nothing else.
pub const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "\
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}body{max-width:72rem;margin:0 auto;padding:1rem}\
table{border-collapse:collapse;width:100%}caption{text-align:left;font-weight:600;padding:.75rem 0 .25rem}\
th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid color-mix(in srgb,currentColor 25%,transparent);\
vertical-align:top}.scroll{overflow-x:auto}.first{font-size:1.15rem}.warning{border-left:.3rem solid;padding-left:.75rem}\
a{color:inherit}:focus-visible{outline:.2rem solid;outline-offset:.2rem}.skip{position:absolute;left:-99rem}.skip:focus{left:1rem}";

/// Text as HTML shows it.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

pub(super) fn response(view: &StatusView) -> Response<Full<Bytes>> {
    super::response(StatusCode::OK, "text/html; charset=utf-8", document(view).into_bytes())
}

/// The whole document.
fn document(view: &StatusView) -> String {
    let mut page = String::new();
    let name = view.host.as_ref().map_or_else(|| "not enrolled".into(), |h| h.name.to_string());
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{name} · RedForge</title><style>{STYLE}</style></head><body>\n\
         <a class=\"skip\" href=\"#main\">Skip to the state</a><header><h1>{name}</h1>\
         <p>As of {at}. <a href=\"/\">Look again</a></p></header>\n<main id=\"main\" tabindex=\"-1\">\n\
         <p class=\"first\">{sentence}</p>\n",
        name = Plain(&name),
        at = status::date(view.at),
        sentence = Plain(&status::sentence(view)),
    );
    for warning in status::warnings(view) {
        let _ = writeln!(page, "<p class=\"warning\">{}</p>", Plain(&warning));
    }
    table(&mut page, "Host", &status::host_rows(view));
    if let Some(s) = view.status.as_ref().filter(|s| !s.instances.is_empty()) {
        table(&mut page, "Instances", &status::instance_rows(s, view));
    }
    if !view.holds.is_empty() {
        table(&mut page, "Held at the site", &status::hold_rows(view));
    }
    if !view.outbox.is_empty() {
        table(&mut page, "Records", &status::outbox_rows(view));
    }
    let _ = write!(
        page,
        "</main>\n<footer><p>This page only looks. At the machine: <code>redforge-edge hold</code>, <code>release</code>, \
         <code>restart</code>, <code>logs</code>, <code>doctor</code>.</p></footer></body></html>\n"
    );
    page
}

/// The first row is the head; the first cell of each other row names it.
fn table(page: &mut String, caption: &str, rows: &[Vec<String>]) {
    let Some((head, body)) = rows.split_first() else { return };
    let id = caption.to_lowercase().replace(' ', "-");
    let _ = write!(
        page,
        "<div class=\"scroll\" role=\"region\" aria-labelledby=\"{id}\" tabindex=\"0\"><table>\
         <caption id=\"{id}\">{caption}</caption><thead><tr>"
    );
    for cell in head {
        let _ = write!(page, "<th scope=\"col\">{}</th>", Plain(cell));
    }
    page.push_str("</tr></thead><tbody>\n");
    for row in body {
        page.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            let (open, close) = if i == 0 { ("<th scope=\"row\">", "</th>") } else { ("<td>", "</td>") };
            let _ = write!(page, "{open}{}{close}", Plain(cell));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::HoldView;
    use redforge_shared::report::{Hold, HostFacts};
    use time::macros::datetime;

    fn view() -> StatusView {
        let at = datetime!(2026-11-23 15:00 UTC);
        let hold = Hold {
            by: "anna".into(),
            reason: "<script>alert(1)</script>".into(),
            since: at,
            until: at + time::Duration::HOUR,
            whole_host: true,
        };
        StatusView {
            at,
            agent_version: "0.1.0".into(),
            running: true,
            starting: Some("it reads its files".into()),
            host: None,
            link: None,
            status: None,
            outbox: vec![],
            outbox_max_bytes: 1,
            facts: HostFacts::default(),
            warnings: vec!["a \"port\" is taken & gone".into()],
            holds: vec![HoldView { instance: None, hold }],
            failed: vec![],
        }
    }

    #[test]
    fn what_people_typed_is_text_and_never_markup() {
        let page = document(&view());
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && !page.contains("<script"), "{page}");
        assert!(page.contains("a &quot;port&quot; is taken &amp; gone"), "{page}");
    }

    #[test]
    fn every_table_has_a_caption_heads_and_a_place_for_the_keyboard() {
        let page = document(&view());
        let tables = page.matches("<table>").count();
        assert!(tables >= 1);
        for each in ["<caption", "tabindex=\"0\"", "role=\"region\""] {
            assert_eq!(page.matches(each).count(), tables, "{each}");
        }
        assert!(page.contains("<html lang=\"en\">") && page.contains("<h1>") && page.contains("id=\"main\""));
        assert!(!page.contains("http-equiv") && !page.contains("onclick"), "nothing moves by itself");
    }
}
