// Package s3 keeps objects in a bucket of Amazon S3 or of a server that speaks
// its protocol. It implements [storage.Store]: an object's key is the prefix, a
// slash, and the key of the Store.
//
// # What a server must be able to do
//
// PutObject with "If-None-Match: *" (that is what PutOptions.IfAbsent becomes),
// ranges in GetObject, ListObjectsV2 in byte order, and reading what was just
// written. AWS has all of that since 2024; of other servers the checks of
// storage/conformance tell. A request has nothing that old servers stumble over:
// no trailing checksums, no aws-chunked encoding; the SHA-256 of what is sent is in
// the signed header x-amz-content-sha256, over TLS too, so that a server stores
// what was meant or refuses it.
//
// # Permissions
//
// s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload on the
// objects, and s3:ListBucket on the bucket. Without s3:ListBucket S3 answers 403 for
// a key that is not there, and then nothing here can tell absence from a
// refusal.
//
// # What the operations cost
//
// Put is one PUT, or for content from 128 MiB on one POST, a PUT for each part,
// and one POST; with PutOptions.IfAbsent one GET before. A PUT of 2 MiB and more waits
// a round trip for "100 Continue", so that it learns of a refusal. Get and Stat are one GET; Stat of an empty object is two. List is
// one GET for 1000 keys. Delete is one request for up to 1000 keys. Nothing here
// tries again, see Errors; but when a bucket turns out to be in another region, the
// request is sent once more there, and the region is remembered.
//
// # Memory
//
// A Put whose source can seek keeps nothing in memory; it reads the source twice,
// first for the checksum. The content of another source, below 128 MiB, is kept in
// memory as long as the Put lasts. Parts of large objects are kept in memory while
// they are sent: three parts at most in the whole Store, of 32 MiB each (more
// only for objects above 312 GiB); a Store that has sent some keeps that memory. Each connection has two buffers of 256 KiB.
//
// # Errors
//
// [storage.ErrNotExist] comes only from S3's own answer NoSuchKey to a GET. A 404 of
// something else (a proxy's page, NoSuchBucket, an answer without a body, such as
// every HEAD gets) proves nothing and is an error like others. That is why Stat is
// not a HEAD.
//
// [storage.ErrTransient] is what can pass by itself: lost and refused connections,
// timeouts, answers cut short, a name server that does not answer; the status 408,
// 429, and 5xx but 501 and 505; a conflict with another request (409); and rejected
// credentials when newer ones are there by now, and such that cannot be had for the
// moment. [storage.ErrThrottled] besides when
// the server says that there are too many requests. A full server or an exhausted
// quota is [storage.ErrNoSpace]. All else comes again: 403, no such bucket, an
// unknown certificate, an unknown host. When the context has ended, its cause is
// the error and nothing else.
//
// Errors name the bucket and the endpoint, the operation and the key, and the
// server's code, message and request id. They carry advice, see internal/hint.
package s3
