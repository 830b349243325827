package s3

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// maxAnswer bounds an answer that is no object, in bytes. The largest is a page of a
// list: 1000 keys of 1024 bytes, each byte spelled in three, and what is said of them.
const maxAnswer = 16 << 20

// answers is the HTTP client of the SDK. It follows no redirects, reads every
// answer that is no object whole, so that one that is cut short is an error of the
// connection and never half a document, and takes errors out of answers itself: the
// SDK makes the same error of S3's NoSuchKey and of any other 404.
type answers struct {
	transport http.RoundTripper
}

// answer is where a request's error is left for the one who waits for it.
type answer struct {
	fault  *serverError
	signed aws.Credentials // that it was asked with
}

type answerKey struct{}

// Do implements the SDK's HTTPClient.
func (a *answers) Do(r *http.Request) (*http.Response, error) {
	// The SDK asks large puts to wait for "100 Continue" and leaves the version out,
	// and then net/http asks and does not wait. An answer that comes early, such as 412 or
	// 503, would be lost when the server closes on what is still being sent.
	r.ProtoMajor, r.ProtoMinor = 1, 1
	response, err := a.transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	ok := response.StatusCode/100 == 2
	if ok && r.Method == http.MethodGet && !r.URL.Query().Has("list-type") {
		return response, nil // an object
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	response.Body.Close()
	if err == nil && len(body) > maxAnswer {
		err = fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	}
	if err != nil && !wantsTLS(response.StatusCode, string(body)) {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	fault := parseError(response, body)
	// S3 begins some answers with 200 before it knows how the work ends.
	if !ok || fault.Code != "" || foreign(response, body, fault.document) {
		if asked, found := r.Context().Value(answerKey{}).(*answer); found {
			asked.fault = fault
		}
	}
	return response, nil
}

// foreign tells that a success is none of S3: a proxy that wants a login answers every
// request with its page and status 200, and then nothing was stored or deleted.
func foreign(response *http.Response, body []byte, document string) bool {
	switch r := response.Request; r.Method {
	case http.MethodPut:
		return response.Header.Get("ETag") == ""
	case http.MethodDelete:
		return len(body) > 0
	case http.MethodPost:
		return r.URL.Query().Has("delete") && document != "DeleteResult"
	}
	return false
}

// wantsTLS recognises the answer of a port that speaks TLS to who does not, which
// servers give before they cut the connection.
func wantsTLS(status int, text string) bool {
	text = strings.ToLower(text)
	return status == http.StatusBadRequest && strings.Contains(text, "http request") && strings.Contains(text, "https")
}

// serverError is what a server said instead of doing what it was asked to. The
// tags are those of S3's error documents, see
// https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
type serverError struct {
	Status  int    `xml:"-"`
	Code    string // "" when the answer was not S3's document
	Message string
	Region  string // that of the bucket, if the server named it
	// RequestID is for asking the people who run the server.
	RequestID string `xml:"RequestId"`

	document string // the name of the answer's XML document, if it is one

	region  string // that the request was signed for
	server  string // its name by its own account
	renewed bool   // there are other credentials now than those that were rejected
	text    string // the beginning of an answer that is no document
}

func parseError(response *http.Response, body []byte) *serverError {
	e := &serverError{}
	var document struct {
		XMLName xml.Name
		serverError
	}
	err := xml.Unmarshal(body, &document)
	if err == nil && document.XMLName.Local == "Error" {
		*e = document.serverError
	} else {
		e.text = oneLine(body)
	}
	if err == nil {
		e.document = document.XMLName.Local
	}
	e.Status = response.StatusCode
	if region := response.Header.Get("X-Amz-Bucket-Region"); region != "" {
		e.Region = region
	}
	if id := response.Header.Get("X-Amz-Request-Id"); id != "" {
		e.RequestID = id
	}
	e.region, e.server = signedRegion(response.Request), response.Header.Get("Server")
	return e
}

// oneLine is the beginning of an answer in a form that can stand in an error.
func oneLine(body []byte) string {
	words := strings.Join(strings.Fields(string(body[:min(len(body), 1000)])), " ")
	return strings.ToValidUTF8(words[:min(len(words), 200)], "?")
}

// signedRegion is the region in "Credential=KEY/20261121/REGION/s3/aws4_request".
func signedRegion(r *http.Request) string {
	if r == nil {
		return ""
	}
	_, scope, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	elements := strings.Split(scope, "/")
	if len(elements) < 3 {
		return ""
	}
	return elements[2]
}

func (e *serverError) Error() string {
	said := fmt.Sprintf("the server answered %d", e.Status)
	if e.Code != "" {
		said += " " + e.Code
	} else if name := http.StatusText(e.Status); name != "" {
		said += " " + name
	}
	if e.Message != "" {
		said += ": " + strings.TrimSpace(e.Message)
	} else if e.text != "" {
		said += fmt.Sprintf(" (no answer of S3: %q)", e.text)
	}
	if e.RequestID != "" {
		said += " (request " + e.RequestID + ")"
	}
	return said
}

// wrongRegion tells that the request would have to go to another region.
func (e *serverError) wrongRegion() bool {
	switch e.Status {
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	switch e.Code {
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "IllegalLocationConstraintException":
		return true
	}
	return false
}

// ended gives the cause when a context is what has ended an operation.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}
