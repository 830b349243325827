// Package e2e tests the whole of pgbak: the real program, real PostgreSQL
// servers of every supported major, real faults. It has tests only.
//
// A [host] is where most of them begin: a running cluster, a configuration and
// a repository beside it. What they compare with does not come from pgbak:
// sums of the committed rows that were taken at the moment itself
// ([committed], [moment]), pg_verifybackup, amcheck and pg_dumpall.
//
//	job_test.go        the main job on every major, to every kind of target
//	restored_test.go   what is looked at in each cluster that came back
//	proof_test.go      WAL and tablespaces that are not the server's
//	checksum_test.go   damaged pages, and pages that are only being written
//	churn_test.go      files that come, grow and go during the copy
//	awkward_test.go    clusters that are hard to back up, upset while a backup is held
//	held_test.go       a backup that stops in the middle of its copy
//	large_test.go      a relation of several segments; many relations
//	oracle_test.go     what an incremental and a full backup become, compared page by page
//	oraclework_test.go the random workload meanwhile
//	samecluster_test.go, pagemask_test.go  comparing data directories; what WAL does not bring
//	s3job_test.go      the main job with its repository in S3, on two servers
//	bucket_test.go     a repository in a bucket, behind a proxy that counts and breaks
//	s3fault_test.go    every request to S3 fails once; a server that stays away
//	s3requests_test.go what commands may ask of S3
//	walchaos_*_test.go WAL through bad days: failovers, kills, cuts, outages; the archive compared with the truth
//	transient_test.go  the main job on a storage that fails now and then
//	operation_test.go  every storage operation fails once, or loses its answer
//	law_test.go        what must hold of the repository after every fault
//	several_test.go    several repositories at once, and the loss of one of them
//	kill_test.go       SIGKILL at every storage operation and at random moments
//	batch_test.go      batches that are killed, counted on S3, and WAL that is dropped
//	receive_test.go    the server and its disk are lost while WAL is received
//	receive_kill_test.go  SIGKILL of archive-receive; a promotion that only it knows of
//	midcopy_test.go    SIGSTOP, a crash of the server, a lost session
//	standby_test.go    backups from a standby
//	failover_test.go   promotions, split brain, a former primary, archive_mode = always
//	space_test.go      full disks
//	sidecar_test.go, sidecar_image_test.go  the agent as a sidecar in a real Kubernetes; run by scripts/kubernetes.sh test only
//	refusal_test.go    what must be refused, and what the refusal says
//
// Every test proves that it met what it is about: that the fault fired, that
// there was traffic during the copy, that content was shared.
//
// Root is needed only to mount small file systems for space_test.go; see package
// pgtest for the servers.
package e2e
