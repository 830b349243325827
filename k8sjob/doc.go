// Package k8sjob is the place of pure builders of Kubernetes objects: the Job
// that takes a backup, the CronJob that does so on a schedule, the init
// container that restores a volume. A builder is a function from plain values
// to an object; it talks to no cluster, reads no clock and keeps no state, so
// that a table test can hold every field of what it makes. There is no builder
// yet.
//
// Import rule, kept by internal/lint: this package may import packages below
// internal and Kubernetes' API types, and nothing else of this module. Only
// k8sjob, operatorglue and the operator's command may be linked with
// Kubernetes at all, because archive-push starts once for every WAL segment and
// must not pay for it.
package k8sjob
