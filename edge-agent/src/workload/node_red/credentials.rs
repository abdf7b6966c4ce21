//! Node-RED's credentials file: opened with the instance's own secret, to see whether nodes have what was declared.
//!
//! The runtime never gives passwords back, and its file is encrypted without a check of integrity and with another vector at
//! each save: only its plain content can be compared. It is read, never written; the runtime writes it at a deploy.
use aws_lc_rs::{
    cipher::{AES_256, DecryptingKey, DecryptionContext, UnboundCipherKey},
    iv::FixedLength,
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use redforge_shared::ids::Digest;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Fields by node.
pub type Credentials = BTreeMap<String, BTreeMap<String, Value>>;

/// Hex digits of the vector that the ciphertext begins with.
const IV_DIGITS: usize = 32;

#[derive(Deserialize)]
struct File {
    #[serde(rename = "$")]
    sealed: String,
}

/// The file's content, or nothing where it is not what this secret encrypted.
pub fn open(file: &[u8], secret: &str) -> Option<Credentials> {
    let File { sealed } = serde_json::from_slice(file).ok()?;
    let (iv, text) = sealed.split_at_checked(IV_DIGITS)?;
    let iv: [u8; 16] = hex::decode(iv).ok()?.try_into().ok()?;
    let mut text = BASE64.decode(text).ok()?;
    let key = UnboundCipherKey::new(&AES_256, &Digest::of(secret.as_bytes()).0).ok()?;
    let context = DecryptionContext::Iv128(FixedLength::from(iv));
    let plain = DecryptingKey::ctr(key).ok()?.decrypt(&mut text, context).ok()?;
    serde_json::from_slice(plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by Node-RED's own code (Node.js crypto: aes-256-ctr, the key is the secret's SHA-256).
    const WRITTEN: &[u8] = br#"{"$":"000102030405060708090a0b0c0d0e0fVMBvmMN9pEgmoUDXXgNbm9u/LNuS439diHTR0Z0rN9zvYv+/mzqUwR1FP4fpK59E+AJ03gjlzSK0Gt4UU8tnrNvgSVJqdfkBbv+7EgXH"}"#;

    #[test]
    fn a_file_that_node_red_wrote_is_opened_with_its_secret_only() {
        let opened = open(WRITTEN, "a secret").expect("the right secret");
        assert_eq!(opened["b1"]["user"], "${REDFORGE_MQTT_USER}");
        assert_eq!(open(WRITTEN, "another secret"), None);
    }

    #[test]
    fn a_file_of_another_form_is_nothing() {
        for bad in ["", "{}", "[]", r#"{"$":""}"#, r#"{"$":"00"}"#, r#"{"$":"zz000000000000000000000000000000AAAA"}"#] {
            assert_eq!(open(bad.as_bytes(), "a secret"), None, "{bad}");
        }
        // A character of two bytes across the place where the vector ends.
        assert_eq!(open(format!("{{\"$\":\"{}\u{e9}AAAA\"}}", "0".repeat(31)).as_bytes(), "a secret"), None);
    }
}
