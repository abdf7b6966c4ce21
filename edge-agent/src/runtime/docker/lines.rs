//! The last lines that a container printed.
use super::{Docker, failed, incomplete, line};
use crate::runtime::{Done, LogLine};
use bollard::query_parameters as query;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};

impl Docker {
    pub(super) fn tail_of(&self, container: &str, tail: u32, follow: bool) -> BoxStream<'static, Done<LogLine>> {
        let (docker, container) = (self.clone(), container.to_owned());
        let options = query::LogsOptions {
            follow,
            stdout: true,
            stderr: true,
            since: 0,
            until: 0,
            timestamps: true,
            tail: tail.to_string(),
        };
        let open = async move {
            let lines = docker.client().await?.logs(&container, Some(options)).boxed();
            Ok(lines.map(move |item| match item {
                Ok(output) => line(output).ok_or_else(|| incomplete("read the log of", &container)),
                Err(e) => Err(failed("read the log of", &container, e)),
            }))
        };
        stream::once(open.boxed()).try_flatten().boxed()
    }
}
