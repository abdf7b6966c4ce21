//! `token create`: prints the complete line that a new host runs.
use crate::{
    cli::CreateToken,
    config::Connection,
    connection,
    failure::{Exit, Failure, Outcome},
    get,
    output::{self, Format},
    suggest, words,
};
use redforge_shared::{ids::Name, wire::pb};
use serde_json::json;

/// The shortest way to a site, as a line of a shell.
fn site_manifest(site: &Name) -> String {
    format!("echo '{{apiVersion: redforge.io/v1, kind: Site, metadata: {{name: {site}}}}}' | redforgectl apply -f -")
}

/// Creates a token. The line goes to standard output, alone.
pub async fn create(settings: &Connection, a: &CreateToken) -> Outcome {
    let site = words::name(&a.site, "sites/")?;
    let ttl_s = u32::try_from(a.ttl.as_secs()).ok().filter(|t| (60..=2_592_000).contains(t));
    let ttl_s = ttl_s.ok_or_else(|| Failure::new(Exit::Usage, "--ttl must be between 1m and 30d"))?;
    let host_name = a.host_name.as_deref().map(|n| words::name(n, "hosts/")).transpose()?;
    let request = pb::CreateTokenRequest {
        site: format!("sites/{site}"),
        ttl_s,
        uses: a.uses,
        host_name: host_name.map(|n| n.to_string()).unwrap_or_default(),
    };
    let mut admin = connection::connect(settings).await?;
    let token = match admin.create_token(request).await {
        Ok(token) => token.into_inner(),
        Err(status) => {
            let known = get::sites(&mut admin).await.unwrap_or_default();
            let names = known.iter().map(|s| words::last(&s.name).to_owned());
            let failure = suggest::nearest(status.into(), site.as_str(), names);
            return Err(match failure.exit {
                Exit::NotFound => failure.hint(format!("a manifest creates it: {}", site_manifest(&site))),
                _ => failure,
            });
        }
    };
    let until = words::time(token.expires_at.as_ref());
    match a.output {
        Format::Table | Format::Wide => {
            output::say(&format!("Run this on the host, until {until}, for {} host(s):", a.uses));
            output::line(&token.command);
        }
        Format::Name => output::line(&token.token),
        Format::Json | Format::Yaml => {
            let object = json!({"token": token.token, "caPin": token.ca_pin, "hubUrl": token.hub_url,
                                "expiresAt": until, "command": token.command});
            if a.output == Format::Json {
                output::line(&serde_json::to_string_pretty(&object).map_err(|e| Failure::error(e.to_string()))?);
            } else {
                output::line(output::yaml(&[object])?.trim_end());
            }
        }
    }
    Ok(())
}
