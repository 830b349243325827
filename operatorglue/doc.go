// Package operatorglue is the place of pgbak's Kubernetes operator: the custom
// resources, and reconcilers that compare what they ask for with what is there
// and create the objects that package k8sjob builds. It will hold no decision
// about backups, which are those of the layers below, and no secret in a custom
// resource. There is no reconciler yet.
//
// Import rule, kept by internal/lint: this package may import k8sjob, archive,
// backup, restore, repo, storage and packages below internal, and of
// this module only commands and end-to-end tests may import it. Together with
// k8sjob and the operator's command it is all that may be linked with Kubernetes.
package operatorglue
