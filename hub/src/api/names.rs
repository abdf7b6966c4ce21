//! Resource names and page tokens: text from outside in, checked names out.
use super::ApiError;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use redforge_shared::ids::Name;

/// The name in `collection/{name}`, such as sites/plant-1.
pub fn single(field: &str, collection: &str, text: &str) -> Result<Name, ApiError> {
    text.strip_prefix(collection)
        .and_then(|rest| rest.strip_prefix('/'))
        .and_then(|name| name.parse().ok())
        .ok_or_else(|| ApiError::invalid(field, format!("'{}' is not {collection}/NAME", shown(text))))
}

/// The same, where empty means none.
pub fn optional(field: &str, collection: &str, text: &str) -> Result<Option<Name>, ApiError> {
    if text.is_empty() { Ok(None) } else { single(field, collection, text).map(Some) }
}

/// Host and instance of hosts/{host}/instances/{instance}.
pub fn instance(field: &str, text: &str) -> Result<(Name, Name), ApiError> {
    let parts: Vec<&str> = text.split('/').collect();
    if let ["hosts", host, "instances", instance] = parts[..]
        && let (Ok(host), Ok(instance)) = (host.parse(), instance.parse())
    {
        return Ok((host, instance));
    }
    Err(ApiError::invalid(field, format!("'{}' is not hosts/HOST/instances/INSTANCE", shown(text))))
}

/// Flow set and number of flowsets/{flow set}/drafts/{number}.
pub fn draft(field: &str, text: &str) -> Result<(Name, i64), ApiError> {
    let parts: Vec<&str> = text.split('/').collect();
    if let ["flowsets", name, "drafts", number] = parts[..]
        && let (Ok(name), Ok(number)) = (name.parse(), number.parse())
    {
        return Ok((name, number));
    }
    Err(ApiError::invalid(field, format!("'{}' is not flowsets/FLOWSET/drafts/NUMBER", shown(text))))
}

/// What of a flow set is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Newest,
    Revision(i64),
    Draft(i64),
}

/// Flow set and version of flowsets/{flow set}, with or without /revisions/{number} or /drafts/{number} behind it.
pub fn version(field: &str, text: &str) -> Result<(Name, Version), ApiError> {
    let parts: Vec<&str> = text.split('/').collect();
    let number = |n: &str| n.parse::<i64>().ok().filter(|n| *n > 0);
    let found = match parts[..] {
        ["flowsets", name] => Some((name, Some(Version::Newest))),
        ["flowsets", name, "revisions", n] => Some((name, number(n).map(Version::Revision))),
        ["flowsets", name, "drafts", n] => Some((name, number(n).map(Version::Draft))),
        _ => None,
    };
    let read = found.and_then(|(name, version)| Some((name.parse().ok()?, version?)));
    read.ok_or_else(|| {
        let allowed = "flowsets/FLOWSET, with or without /revisions/NUMBER or /drafts/NUMBER";
        ApiError::invalid(field, format!("'{}' is not {allowed}", shown(text)))
    })
}

/// Stream and sequence number of records/{stream}/{seq}.
pub fn record(field: &str, text: &str) -> Result<(i64, i64), ApiError> {
    let number = |s: &str| s.parse::<i64>().ok().filter(|n| *n > 0);
    text.strip_prefix("records/")
        .and_then(|rest| rest.split_once('/'))
        .and_then(|(stream, seq)| Some((number(stream)?, number(seq)?)))
        .ok_or_else(|| ApiError::invalid(field, format!("'{}' is not records/STREAM/SEQ", shown(text))))
}

/// Rows of a page: 0 = 100, at most 1000.
pub fn page_size(size: i32) -> Result<u32, ApiError> {
    match u32::try_from(size) {
        Ok(0) => Ok(100),
        Ok(n) => Ok(n.min(1000)),
        Err(_) => Err(ApiError::invalid("page_size", format!("{size} is not within 0 to 1000"))),
    }
}

/// Token for the page after `last`.
pub fn page_token(last: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("1{last}"))
}

/// What the token says the last page ended with; empty at the beginning.
pub fn after(token: &str) -> Result<String, ApiError> {
    if token.is_empty() {
        return Ok(String::new());
    }
    Some(token)
        .filter(|t| t.len() <= 256)
        .and_then(|t| URL_SAFE_NO_PAD.decode(t).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| text.strip_prefix('1').map(str::to_owned))
        // It goes into a query as text, which PostgreSQL bounds by this byte.
        .filter(|text| !text.contains('\0'))
        .ok_or_else(|| ApiError::invalid("page_token", "is not a token that this hub gave"))
}

/// Cuts a list that was read with one row too many; true if there is a next page.
pub fn cut<T>(rows: &mut Vec<T>, size: u32) -> bool {
    let more = rows.len() > size as usize;
    rows.truncate(size as usize);
    more
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn resource_names_are_read_and_refused_by_field() {
        assert_eq!(single("name", "sites", "sites/a").expect("good").as_str(), "a");
        assert_eq!(record("like", "records/4/17").expect("good"), (4, 17));
        for bad in ["", "a", "sites/", "sites/A", "hosts/a", "sites/a/b"] {
            let e = single("name", "sites", bad).expect_err(bad).to_string();
            assert_eq!(e, format!("name: '{bad}' is not sites/NAME"));
        }
        assert!(instance("name", "hosts/h/instances/i").is_ok());
        assert!(instance("name", "hosts/h/instance/i").is_err());
        assert!(page_size(-1).is_err());
        let read = |text| version("name", text).map(|(n, v)| (n.to_string(), v)).ok();
        assert_eq!(read("flowsets/a"), Some(("a".into(), Version::Newest)));
        assert_eq!(read("flowsets/a/revisions/7"), Some(("a".into(), Version::Revision(7))));
        assert_eq!(read("flowsets/a/drafts/1"), Some(("a".into(), Version::Draft(1))));
        for bad in ["flowsets", "flowsets/", "flowsets/a/", "flowsets/a/drafts/0", "flowsets/a/x/1", "sites/a"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn tokens_come_back_and_foreign_ones_are_refused(last in "[a-z/]{0,60}", junk in ".{0,80}") {
            prop_assert_eq!(after(&page_token(&last)).expect("own token"), last);
            drop(after(&junk));
            drop(instance("name", &junk));
            drop(version("name", &junk));
            drop(record("like", &junk));
        }
    }
}
