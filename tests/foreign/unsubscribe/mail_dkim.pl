# Verifies the DKIM signatures of the message on standard input with Mail::DKIM. The arguments are pairs of the name and the
# value of a TXT record. Prints the result of each signature.
use strict;
use warnings;
use Mail::DKIM::Verifier;
use Net::DNS;

my %records = @ARGV;
{
    no warnings 'redefine';
    *Mail::DKIM::DNS::query = sub {
        my ($name) = @_;
        return unless exists $records{$name};
        # A string of a TXT record has at most 255 octets.
        my @strings = unpack('(A255)*', $records{$name});
        return Net::DNS::RR->new(owner => $name, type => 'TXT', txtdata => \@strings);
    };
}
my $verifier = Mail::DKIM::Verifier->new();
binmode STDIN;
while (my $line = <STDIN>) {
    $verifier->PRINT($line);
}
$verifier->CLOSE;
print $_->algorithm, ' ', $_->result, "\n" for $verifier->signatures;
