//! Where candidates come from: the one seam between the solver and the world.

use std::future::Future;
use std::sync::Arc;

use pep508_rs::PackageName;

use crate::oci::Digest;
use crate::package_index::{Client, Error, File, Project, SdistSource};
use crate::python::{CoreMetadata, Target};

/// What the solver asks of package indexes. Answers must not change during a run.
pub trait CandidateSource: Send + Sync {
    /// All files of the project; an empty project if nobody knows it.
    fn project(
        &self,
        name: &PackageName,
    ) -> impl Future<Output = Result<Arc<Project>, Error>> + Send;

    /// The metadata of a wheel.
    fn wheel_metadata(
        &self,
        file: &File,
    ) -> impl Future<Output = Result<Arc<CoreMetadata>, Error>> + Send;

    /// What an sdist says about itself, fetched and verified.
    fn sdist(
        &self,
        name: &PackageName,
        file: &File,
    ) -> impl Future<Output = Result<SdistSource, Error>> + Send;

    /// The SHA-256 and the size in bytes of a file whose index does not tell them.
    fn identify(
        &self,
        name: &PackageName,
        file: &File,
    ) -> impl Future<Output = Result<(Digest, u64), Error>> + Send;
}

/// Asks a build for the metadata of an sdist that does not tell it by itself.
pub trait SdistMetadata: Send + Sync {
    /// The metadata that the build backend makes for `target`; `None` if there is no way to ask it.
    ///
    /// # Errors
    /// The build failed: the text says why, and the version is out.
    fn metadata(
        &self,
        name: &PackageName,
        sdist: &SdistSource,
        target: &Target,
    ) -> impl Future<Output = Result<Option<CoreMetadata>, String>> + Send;
}

/// Builds nothing: an sdist's requirements are what its files say.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBuild;

impl SdistMetadata for NoBuild {
    async fn metadata(
        &self,
        _: &PackageName,
        _: &SdistSource,
        _: &Target,
    ) -> Result<Option<CoreMetadata>, String> {
        Ok(None)
    }
}

impl CandidateSource for Client {
    async fn project(&self, name: &PackageName) -> Result<Arc<Project>, Error> {
        Self::project(self, name).await
    }

    async fn wheel_metadata(&self, file: &File) -> Result<Arc<CoreMetadata>, Error> {
        Self::wheel_metadata(self, file).await
    }

    async fn sdist(&self, name: &PackageName, file: &File) -> Result<SdistSource, Error> {
        self.sdist_source(name, file).await
    }

    async fn identify(&self, name: &PackageName, file: &File) -> Result<(Digest, u64), Error> {
        self.fetch(name, &file.file_name, file.sha256.as_ref(), file.size).await
    }
}
